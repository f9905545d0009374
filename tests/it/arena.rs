//! Keys that the server keeps are in memory that is locked, and left out of core dumps and of children:
//! while they are in its cache, nothing else of its memory has them, no core dump and no swapped page.
//!
//! `scripts/it/64-memory.sh` runs these tests against the release: a program that is not optimised keeps
//! copies on its stacks.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::{
    common::{
        Identity, PATIENCE, Server, TempDir, base64, client, from_base64, hex, wait_for, wait_until,
    },
    memory::{Secrets, bytes, may_read_memory, memory},
};

/// A server with keys in its cache, which are what to look for; and a text of its ordinary memory, which a
/// search that works finds.
fn scene() -> (Server, Secrets, Secrets) {
    let ordinary = hex(&bytes("ordinary", 20));
    let server = Server::start(|config| {
        config.expiry = "{any: 1h, unused: 1h}";
        config.policy(&ordinary, &["/version"], &[&Identity::new("app")]);
    });
    let mut control = Secrets::default();
    control.add("the name of a policy", ordinary.as_bytes());
    let mut keys = Secrets::default();
    let mut connection = server.root().connect();
    for number in 0..40 {
        let name = format!("kept-{number}");
        if number % 2 == 0 {
            connection.request("POST", &format!("/v1/key/create/{name}"), "").is_empty_success();
        } else {
            let body = format!("{{\"bytes\":\"{}\"}}", base64(bytes(&name, 32)));
            connection.request("POST", &format!("/v1/key/import/{name}"), &body).is_empty_success();
        }
        connection.request("POST", &format!("/v1/key/generate/{name}"), "{}").is_json_success();
        let text = fs::read_to_string(server.keys().join(&name)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        keys.add_master_key(name, &from_base64(value["bytes"].as_str().unwrap()));
    }
    drop(connection);
    (server, keys, control)
}

/// The flags of each mapping, by its addresses.
fn flags(server: &Server) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/smaps", server.pid())).unwrap();
    let mut range = String::new();
    let mut all = HashMap::new();
    for line in text.lines() {
        match line.strip_prefix("VmFlags: ") {
            Some(flags) => drop(all.insert(range.clone(), format!(" {flags}"))),
            None => {
                let first = line.split(' ').next().unwrap();
                if first.contains('-') {
                    range = first.to_owned();
                }
            }
        }
    }
    all
}

/// The memory of the server outside of the arena, and inside.
fn parts(server: &Server) -> [Vec<(String, Vec<u8>)>; 2] {
    let flags = flags(server);
    let is_protected = |mapping: &str| {
        let flags = &flags[mapping.split(' ').next().unwrap()];
        // Locked, no dump, no copy at a fork.
        ["lo", "dd", "dc"].iter().all(|flag| flags.contains(&format!(" {flag}")))
    };
    let (inside, outside) = memory(server).into_iter().partition(|(line, _)| is_protected(line));
    [outside, inside]
}

#[test]
fn a_cached_key_is_in_locked_memory_alone() {
    if !may_read_memory() {
        return;
    }
    let (server, keys, _) = scene();
    let mut found = Vec::new();
    wait_for(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        found = keys.found_in(&parts(&server)[0]);
        found.is_empty().then_some(())
    });
    assert!(found.is_empty(), "a cached key is outside of the arena: {found:#?}");
    let [_, inside] = parts(&server);
    assert_eq!(keys.count(), keys.found_in(&inside).len(), "all keys are in the arena");
    let size: usize = inside.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(size <= 256 << 10, "{size} bytes are locked");
}

/// Lets `process` write a core file, which the system may refuse.
fn allows_core(process: Pid) -> bool {
    prlimit(Some(process), Resource::Core, Rlimit { current: None, maximum: None }).is_ok()
}

#[test]
fn a_crash_writes_no_core_file() {
    // The same signal, in a process that protects nothing.
    let directory = TempDir::new();
    let mut other = Command::new("sleep");
    other.arg("60").current_dir(directory.path());
    let mut other = other.spawn().unwrap();
    let pid = Pid::from_child(&other);
    if !may_read_memory() {
        other.kill().unwrap();
        other.wait().unwrap();
        return;
    }
    let may = allows_core(pid);
    kill_process(pid, Signal::ABORT).unwrap();
    if !other.wait().unwrap().core_dumped() || !may {
        eprintln!("this machine writes no core files at all");
        return;
    }
    let suid = fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap();
    for (signal, raises_limit) in [(Signal::ABORT, false), (Signal::SEGV, true)] {
        if raises_limit && suid.trim() != "0" {
            eprintln!("this machine writes core files of protected processes for root");
            continue;
        }
        let mut server = Server::start(|_| {});
        let process = Pid::from_raw(server.pid().cast_signed()).unwrap();
        if raises_limit && !allows_core(process) {
            eprintln!("this machine does not let root raise the limit of another process");
            continue;
        }
        server.signal(signal);
        let status = server.wait_for_exit();
        assert_eq!(Some(signal.as_raw()), status.signal());
        assert!(!status.core_dumped(), "{signal:?} wrote a core file");
    }

    // A command, which waits for an API key.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kes"));
    command.args(["identity", "new", "--api-key", "-", "--key", "k", "--cert", "c"]);
    let mut command = command.current_dir(directory.path()).stdin(Stdio::piped()).spawn().unwrap();
    let limits = format!("/proc/{}/limits", command.id());
    wait_until("it has set its limits", || {
        let limits = fs::read_to_string(&limits).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        line.split_whitespace().nth(4) == Some("0")
    });
    kill_process(Pid::from_child(&command), Signal::ABORT).unwrap();
    assert!(!command.wait().unwrap().core_dumped(), "a command wrote a core file");
}

/// Whether the release is tested, and `programs` are there. In CI they have to be.
fn can_run(programs: &[&str]) -> bool {
    let has = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|folder| folder.join(program).exists())
    };
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    may_read_memory()
        && std::env::var_os("KES").is_some()
        && programs.iter().all(|program| {
            let has = has(program);
            assert!(has || !is_ci, "{program} is not installed");
            has
        })
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {text}")) }
}

fn content(file: &Path) -> Vec<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    fs::File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    vec![(file.display().to_string(), bytes)]
}

/// What the vector registers of all threads hold, which a core file has, too.
fn registers(server: &Server) -> Vec<(String, Vec<u8>)> {
    const SCRIPT: &str = "
import gdb
def words(value):
    return [int(value['v%d_int64' % count][at]) & (1 << 64) - 1 for at in range(count)]
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    names = [register.name for register in frame.architecture().registers('vector')]
    wide = [name for name in names if name.startswith('zmm')] or [name for name in names if name.startswith('ymm')]
    count = 8 if wide[0].startswith('zmm') else 4
    for name in wide:
        print('REGISTER', thread.name, name, ''.join('%016x' % word for word in words(frame.read_register(name))))
";
    let file = TempDir::new();
    let script = file.path().join("registers.py");
    fs::write(&script, SCRIPT).unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-p", &server.pid().to_string(), "-x"]).arg(&script);
    let output = gdb.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("REGISTER "))
        .map(|line| {
            let (name, words) = line.rsplit_once(' ').unwrap();
            let words = words.as_bytes().chunks(16).flat_map(|word| {
                u64::from_str_radix(std::str::from_utf8(word).unwrap(), 16).unwrap().to_le_bytes()
            });
            (name.to_owned(), words.collect())
        })
        .collect();
    assert!(
        !all.is_empty(),
        "gdb reads no registers: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    all
}

#[test]
fn threads_at_rest_keep_nothing_in_their_registers() {
    if !can_run(&["gdb"]) {
        return;
    }
    let (server, mut secrets, _) = scene();
    let mut connection = server.root().connect();
    // Long, so that shorter copies that come after leave some of it.
    let text = base64(bytes("plaintext", 512));
    secrets.add("a plaintext", &from_base64(&text));
    let body = format!("{{\"plaintext\":\"{text}\"}}");
    let sealed = connection.request("POST", "/v1/key/encrypt/kept-1", &body).json();
    let body = format!("{{\"ciphertext\":{}}}", sealed["ciphertext"]);
    connection.request("POST", "/v1/key/decrypt/kept-1", &body).is_json_success();
    server.comes_to_rest();
    let mut found = Vec::new();
    wait_for(PATIENCE, || {
        found = secrets.found_in(&registers(&server));
        found.is_empty().then_some(())
    });
    assert!(found.is_empty(), "registers of threads at rest: {found:#?}");
}

/// The ciphers of TLS leave what they opened in registers that nothing else uses.
#[test]
fn the_last_bytes_that_a_thread_decrypted_are_not_in_its_registers() {
    if !can_run(&["gdb"]) {
        return;
    }
    let server = Server::start(|_| {});
    let root = server.root();
    let (mut keys, mut connections) = (Secrets::default(), Vec::new());
    // Requests without their last byte: workers that have opened them have nothing more to do.
    for number in 0..16 {
        // Blocks of the cipher begin at another byte of each.
        let name = format!("last-{}", "x".repeat(number));
        let key = bytes(&name, 32);
        let body = format!("{{\"bytes\":\"{}\"}}", base64(key.clone()));
        let request = client::request("POST", &format!("/v1/key/import/{name}"), body.as_bytes());
        let mut connection = root.connect();
        connection.send(&request[..request.len() - 1]);
        keys.add_master_key(name, &key);
        connections.push(connection);
    }
    // They are answered after 5 s.
    let mut found = Vec::new();
    wait_for(Duration::from_secs(4), || {
        found = keys.found_in(&registers(&server));
        found.is_empty().then_some(())
    });
    assert!(found.is_empty(), "registers of threads at rest: {found:#?}");
}

#[test]
fn a_core_dump_that_root_forces_has_no_cached_key() {
    if !can_run(&["gcore", "gdb"]) {
        return;
    }
    let (server, keys, control) = scene();
    server.comes_to_rest();
    let directory = TempDir::new();
    let dump = || {
        let base = directory.path().join("core");
        succeeds(Command::new("gcore").arg("-o").arg(&base).arg(server.pid().to_string())).unwrap();
        content(&base.with_extension(server.pid().to_string()))
    };
    let mut found = Vec::new();
    wait_for(PATIENCE, || {
        let core = dump();
        assert_eq!(1, control.found_in(&core).len(), "the core file has ordinary memory");
        found = keys.found_in(&core);
        found.is_empty().then_some(())
    });
    assert!(found.is_empty(), "a core dump has cached keys: {found:#?}");
    // It is honest to know that the arena is what keeps them out.
    assert_eq!(keys.count(), keys.found_in(&memory(&server)).len());
}

/// A file that the kernel swaps to.
struct Swap {
    folder: TempDir,
}

impl Swap {
    fn on() -> Result<Self, String> {
        let swap = Self { folder: TempDir::new() };
        let file = swap.file();
        // No holes, and on the disk before the kernel asks where it is.
        fs::write(&file, vec![0; 64 << 20]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        succeeds(Command::new("mkswap").arg(&file))?;
        succeeds(Command::new("swapon").args(["--priority", "32767"]).arg(&file))?;
        Ok(swap)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("swap")
    }

    /// What is on the disk: the cache of the file knows nothing of it.
    fn content(&self) -> Vec<(String, Vec<u8>)> {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", self.file().display())).args([
            "iflag=direct",
            "bs=1M",
            "status=none",
        ]);
        vec![("swap".to_owned(), dd.output().unwrap().stdout)]
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.file()).output();
    }
}

#[test]
fn a_swapped_page_has_no_cached_key() {
    if !can_run(&["mkswap", "swapon", "dd", "python3"]) {
        return;
    }
    let (server, keys, control) = scene();
    server.comes_to_rest();
    // What came in with the keys is wiped a second later.
    wait_for(PATIENCE, || keys.found_in(&parts(&server)[0]).is_empty().then_some(()));
    let swap = match Swap::on() {
        Ok(swap) => swap,
        Err(why) => return eprintln!("this machine gives no swap: {why}"),
    };
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/page_out.py");
    succeeds(Command::new(tool).arg(server.pid().to_string())).unwrap();
    let mut content = Vec::new();
    wait_until("ordinary memory is in the swap", || {
        content = swap.content();
        control.found_in(&content).len() == 1
    });
    assert_eq!(Vec::<String>::new(), keys.found_in(&content), "keys in the swap");
    // The arena is where it was.
    assert_eq!(keys.count(), keys.found_in(&parts(&server)[1]).len());
    drop(swap);
    server.root().connect().request("POST", "/v1/key/generate/kept-1", "{}").is_json_success();
}
