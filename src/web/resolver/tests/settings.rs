//! What the files and the environment say.

use super::*;

#[test]
fn addresses_and_names_of_the_hosts_file_need_no_name_server() {
    let hosts = "# 10.0.0.9 bao\n10.0.0.1\tbao.example Bao # one\n::2 bao\n10.0.0.1 bao\n";
    let resolver = resolver("hosts", hosts, NAMESERVER, |_, _| panic!("it was asked"));
    assert_eq!(["10.0.0.1", "::2"], *lookup(&resolver, "bao").unwrap());
    assert_eq!(["10.0.0.1"], *lookup(&resolver, "BAO.example.").unwrap());
    assert_eq!(["10.0.0.7"], *lookup(&resolver, "10.0.0.7").unwrap());
    assert_eq!(["::7"], *lookup(&resolver, "[::7]").unwrap());
    assert_eq!(["127.0.0.1", "::1"], *lookup(&resolver, "localhost").unwrap());
}

#[test]
fn short_names_are_looked_up_in_the_domains_first() {
    let settings = format!("{NAMESERVER}search a.test b.test.\noptions ndots:2\n");
    let resolver = resolver("search", "", &settings, |name, kind| match (name, kind) {
        ("bao.ns.b.test", 1) => (0, false, vec![(1, vec![10, 0, 0, 2])]),
        ("bao.ns", 1) => (0, false, vec![(1, vec![10, 0, 0, 9])]),
        _ => (3, false, Vec::new()),
    });
    assert_eq!(["10.0.0.2"], *lookup(&resolver, "bao.ns").unwrap());
    assert_eq!(["10.0.0.9"], *lookup(&resolver, "bao.ns.").unwrap());
}

#[test]
fn bytes_in_another_encoding_hide_nothing() {
    let resolver = resolver("latin", "", NAMESERVER, |_, _| (3, false, Vec::new()));
    fs::write(&resolver.hosts, b"# B\xfcro\n10.0.0.5 bao\n").unwrap();
    assert_eq!(["10.0.0.5"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn name_servers_are_read_whatever_else_the_file_holds() {
    let text = "# a comment\nnameserver\nnameserver somewhere\nnameserver 10.0.0.1 # first\n\
                nameserver fe80::1%lo\nnameserver fe80::1%nowhere\nnameserver fe80::2%7\n\
                nameserver 10.0.0.2\nsearch .\noptions ndots ndots:x rotate timeout:0 attempts:99\n";
    let settings = Settings::parse(text, "", 53);
    let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
    assert_eq!(["10.0.0.1:53", "[fe80::1%1]:53", "[fe80::2%7]:53"], *servers);
    assert_eq!((1, 5), (settings.dots, settings.attempts));
    assert_eq!(Duration::from_secs(1), settings.timeout);
    assert!(settings.rotates);
    let nothing = Settings::parse("\0\n%\n;\n", "", 53);
    assert_eq!("127.0.0.1:53", nothing.servers[0].to_string());
}

#[test]
fn the_environment_amends_the_settings() {
    let text = "nameserver 10.0.0.1\noptions ndots:2 timeout:9\n";
    let settings = Settings::parse(text, "ndots:3 use-vc nonsense attempts", 53);
    assert_eq!(3, settings.dots);
    assert_eq!(Duration::from_secs(9), settings.timeout);
    assert!(settings.uses_tcp && !settings.rotates);

    // In a process of its own, for an environment is that of all threads.
    if env::var("RES_OPTIONS").as_deref() == Ok("ndots:3 rotate") {
        assert_eq!("ndots:3 rotate", Resolver::default().options);
        return;
    }
    let again = Command::new(env::current_exe().unwrap())
        .args(["--exact", "web::resolver::tests::settings::the_environment_amends_the_settings"])
        .env("RES_OPTIONS", "ndots:3 rotate")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && output.contains("1 passed"), "{output}");
}
