//! The fields of a configuration file, in one table: what each holds, its default, what is wrong
//! with other values, and what the reference in `docs/configuration.md` says of it.
//!
//! A new field is a row here, or in the section of a key store (`stores`), and a line where its value is
//! used.

use super::{expand::Expansion, types::Format};

/// A field, or all fields that a pattern stands for.
#[cfg_attr(not(test), expect(dead_code))] // a test writes the reference
pub(super) struct Field {
    /// Its dotted name. `*` stands for any name, and `[]` for the items of a list.
    pub(super) path: &'static str,
    /// What it holds, in a word for the reference.
    kind: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// What counts if it is missing or empty, in files with a `root`; may be empty.
    older_default: &'static str,
    /// The same in the newest format.
    newest_default: &'static str,
    /// What that means, if the default does not say it.
    unset: &'static str,
    /// The flag that wins over it, such as `--root`; may be empty.
    pub(super) flag: &'static str,
    /// The words for a wrong value, which stands in the place of `{}`, or for a missing one.
    pub(super) wrong: &'static str,
    /// What would be right.
    pub(super) advice: &'static str,
    /// What becomes of variables in it.
    pub(super) expansion: Expansion,
    /// The formats that have it.
    formats: &'static [Format],
    /// What stands for it in the formats that do not have it; may be empty.
    pub(super) counterpart: &'static str,
    /// What to think of when it is not taken over into another format; may be empty.
    pub(super) caution: &'static str,
    /// The KES that have it.
    known: Known,
}

/// Which KES have a field that our formats have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Those of the format.
    Everywhere,
    /// Those since 0.18 only: files with a `root` may have it here, too.
    Since0_18,
    /// None: it is ours.
    Nowhere,
}

/// The formats with a `root`.
const OLDER: &[Format] = &[Format::Keys, Format::KeyStore];
/// The format with an `admin`.
const NEWEST: &[Format] = &[Format::Newest];
const ALL: &[Format] = &[Format::Keys, Format::KeyStore, Format::Newest];

/// The kind of fields that only other software reads. What they hold is not looked at.
pub(super) const FOREIGN: &str = "";

pub(super) const fn field(path: &'static str, kind: &'static str, about: &'static str) -> Field {
    Field {
        path,
        kind,
        about,
        older_default: "",
        newest_default: "",
        unset: "",
        flag: "",
        wrong: "",
        advice: "",
        expansion: Expansion::Whole,
        formats: ALL,
        counterpart: "",
        caution: "",
        known: Known::Everywhere,
    }
}

impl Field {
    pub(super) const fn default(self, default: &'static str) -> Self {
        Self { older_default: default, newest_default: default, ..self }
    }

    pub(super) const fn newest_default(self, newest_default: &'static str) -> Self {
        Self { newest_default, ..self }
    }

    pub(super) const fn unset(self, unset: &'static str) -> Self {
        Self { unset, ..self }
    }

    pub(super) const fn flag(self, flag: &'static str) -> Self {
        Self { flag, ..self }
    }

    pub(super) const fn check(self, wrong: &'static str, advice: &'static str) -> Self {
        Self { wrong, advice, ..self }
    }

    pub(super) const fn expands(self, expansion: Expansion) -> Self {
        Self { expansion, ..self }
    }

    pub(super) const fn only(self, formats: &'static [Format]) -> Self {
        Self { formats, ..self }
    }

    /// Other formats have `counterpart` in its place, or nothing.
    pub(super) const fn counterpart(
        self,
        counterpart: &'static str,
        caution: &'static str,
    ) -> Self {
        Self { counterpart, caution, ..self }
    }

    pub(super) const fn ours(self) -> Self {
        Self { known: Known::Nowhere, ..self }
    }

    pub(super) const fn since_0_18(self) -> Self {
        Self { known: Known::Since0_18, ..self }
    }

    /// What counts if it is missing or empty.
    pub(super) fn default_in(&self, format: Format) -> &'static str {
        match format.is_newest() {
            true => self.newest_default,
            false => self.older_default,
        }
    }

    /// Whether `format` has it.
    pub(super) fn is_in(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    pub(super) fn is_secret(&self) -> bool {
        self.kind == "secret"
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.kind == FOREIGN
    }
}

/// The fields of the server. Those of its key store are under `keys` in [`Format::Keys`].
#[rustfmt::skip] // a row is a line or a few, not one line a word
pub(super) const FIELDS: &[Field] = &[
    field("version", "version", "version of the format: `v1`").only(NEWEST)
        .check("unknown version of the format: \"{}\"", "write v1"),
    field("address", "address", "IP and port to listen on; either may be left out")
        .default("0.0.0.0:7373").flag("--addr")
        .check("invalid server address: \"{}\"", "write IP, IP:PORT, :PORT or [IPv6]:PORT, such as 0.0.0.0:7373"),
    field("root", "identity", "the identity that may do everything. Any text that is no identity, such as `disabled`, switches it off")
        .unset("required").flag("--root").only(OLDER).counterpart("admin.identity", "")
        .check("no root identity has been specified", "set \"root\" in the file or use --root; \"disabled\" means no root"),
    field("admin.identity", "identity", "the identity that may do everything. Any text that is no identity, such as `disabled`, switches it off")
        .unset("required").only(NEWEST).counterpart("root", "")
        .check("no admin identity has been specified", "set \"admin.identity\"; \"disabled\" means no admin"),
    field("tls.key", "file", "private key of the server (PEM; Ed25519, P-256, P-384 or RSA)").unset("required").flag("--key")
        .check("no private key file has been specified", "set \"tls.key\" in the file or use --key"),
    field("tls.cert", "file", "certificate chain of the server (PEM)").unset("required").flag("--cert")
        .check("no certificate file has been specified", "set \"tls.cert\" in the file or use --cert"),
    field("tls.password", "secret", "password of the private key, if that is encrypted").only(NEWEST),
    field("tls.auth", "switch", "`on`: client certificates must be trusted, as with `--auth on`")
        .default("off").only(NEWEST).counterpart("the flag --auth", "without it, certificates of clients are not verified")
        .check("\"{}\" is an invalid setting of TLS authentication", "write on or off"),
    field("tls.ca", "file", "authorities of client certificates beside those of the system: a PEM file, or a directory of such files").only(NEWEST),
    field("tls.groups[]", "groups", "key exchange groups that clients may choose from: some of `X25519MLKEM768`, `X25519`, `P-256`, `P-384`, see [below](#key-exchange)")
        .unset("all of them").ours().check("unknown key exchange group: \"{}\"", "use X25519MLKEM768, X25519, P-256 and P-384"),
    field("tls.proxy.identities[]", "identities", "the [TLS proxies](#tls-proxies), which speak for other clients").unset("no proxies"),
    field("tls.proxy.header.cert", "header", "the header in which a TLS proxy forwards the client's certificate")
        .check("invalid TLS proxy header name: \"{}\"", "write the name of an HTTP header, such as X-Tls-Client-Cert"),
    field("tls.proxy.header.ip", "header", "the header in which a TLS proxy forwards the client's address, for [audit lines](#addresses-behind-a-proxy)")
        .only(NEWEST).ours().check("invalid TLS proxy header name: \"{}\"", "write the name of an HTTP header, such as X-Forwarded-For"),
    field("api.texts", "version", "`0.14` or `newest`: the words of errors, which some clients compare, see [below](#generations)").unset("those of the format").ours()
        .check("unknown texts: \"{}\"", "write 0.14 or newest"),
    field("api.*.skip_auth", "true or false", "`true`: clients need no certificate and no policy for the API with this path, such as `/v1/metrics`")
        .default("false").only(NEWEST).check("skip_auth is neither true nor false: \"{}\"", "write true or false"),
    field("api.*.timeout", "duration", "time for an answer of the API with this path").unset("that of the API").only(NEWEST),
    field("policy.*.paths[]", "patterns", "API paths that the policy allows, such as `/v1/key/create/my-app-*`. `*` and `?` never match a `/`")
        .unset("nothing").expands(Expansion::Never).only(OLDER)
        .counterpart("policy.*.allow", "a \"*\" at the end also matches \"/\" there, and \"?\" and \"[\" stand for themselves"),
    field("policy.*.allow[]", "rules", "API paths that the policy allows. A `*` at the end stands for anything, with every `/`; other characters stand for themselves")
        .unset("nothing").expands(Expansion::Never).only(NEWEST)
        .counterpart("policy.*.paths", "a \"*\" never matches \"/\" there"),
    field("policy.*.deny[]", "rules", "API paths that the policy denies, whatever it allows").unset("nothing").expands(Expansion::Never).only(NEWEST)
        .counterpart("", "without it the policy allows more"),
    field("policy.*.identities[]", "identities", "the identities that have the policy. An identity has at most one").unset("nobody"),
    field("cache.expiry.any", "duration", "a key leaves the cache this long after it was read").unset("never").newest_default("5m"),
    field("cache.expiry.unused", "duration", "a key leaves the cache this long after it was last used").unset("never").newest_default("30s"),
    field("cache.expiry.offline", "duration", "while the key store is not available, cached keys stay usable for this long, whatever `any` and `unused` say. The server then also starts without its key store")
        .unset("as `any` and `unused` say").since_0_18(),
    field("log.error", "switch", "error events to stderr: JSON lines, plain lines on a terminal")
        .default("on").expands(Expansion::Parts).check("\"{}\" is an invalid error log configuration", "write on or off"),
    field("log.audit", "switch", "`on`: one JSON line per request to stdout, unless nobody reads it. `changes`: the lines of keys that are created or deleted alone. `required`: no key is answered without its line, see [operations](operations.md#audit-that-can-be-relied-on)")
        .default("off").newest_default("changes").check("\"{}\" is an invalid audit log configuration", "write on, off, changes or required"),
    field("probe.address", "address", "IP and port to listen on for [probes](operations.md#probes), without TLS").unset("no probes").ours()
        .check("invalid probe address: \"{}\"", "write IP:PORT, :PORT or [IPv6]:PORT, such as 127.0.0.1:7374"),
    field("reload.watch", "switch", "`on`: the server reloads by itself when the configuration file or `tls.ca` changes, see [operations](operations.md#changes-without-a-restart)")
        .unset("`on` for a file that Kubernetes mounts, else `off`").ours().check("whether files are watched is neither on nor off", "write on or off"),
    field("limits.connections", "number", "open connections of clients at most, see [operations](operations.md#how-many-connections)").unset("one for each 256 KiB of memory").ours()
        .check("invalid number of connections: \"{}\"", "write a whole number of at least 1, such as 10000, or leave out the field for as many as there is memory for"),
    field("limits.requests_per_second", "number", "requests of each identity in a second, see [operations](operations.md#bad-neighbours)").unset("any number").ours()
        .check("invalid number of requests a second: \"{}\"", "write a whole number of at least 1, such as 1000, or leave out the field for any number"),
    field("limits.concurrent", "number", "requests of each identity that are under way at the same time, see [operations](operations.md#bad-neighbours)").unset("any number").ours()
        .check("invalid number of concurrent requests: \"{}\"", "write a whole number of at least 1, such as 256, or leave out the field for any number"),
    field("shutdown.delay", "duration", "after SIGTERM the server serves on for this time, and its [ready probe](operations.md#stopping) says 503, so that load balancers send clients elsewhere")
        .default("0s").ours(),
    field("shutdown.timeout", "duration", "then it takes no new connections, and running requests may take this time").default("800ms").ours(),
    field("keys[].name", "key name", "keys that are created at start if they are missing").only(&[Format::KeyStore, Format::Newest])
        .check("failed to create key \"{}\": invalid key name", "use 1 to 255 bytes without slashes, not \".\" or \"..\""),
    field("keystore.required", "switch", "`off`: the server starts even if the key store can't be reached, says so, and uses it as soon as it can")
        .default("on").ours().check("whether the key store is required is neither on nor off", "write on or off"),
];

/// All rows, in the order of the reference.
pub(super) struct Table(pub(super) Vec<&'static Field>);

/// What a value is, or has inside.
pub(super) enum Shape {
    /// A single value.
    Text(&'static Field),
    /// A list, whose items are at the path with `[]` behind it.
    List,
    /// A map of fields with these names, in the order of the table; `*` among them is any name.
    Map(Vec<&'static str>),
}

impl Table {
    /// The row of what may be a field.
    pub(super) fn find(&self, path: &str) -> Option<&'static Field> {
        self.0.iter().find(|field| field.path == path).copied()
    }

    /// The row of a field.
    pub(super) fn at(&self, path: &str) -> &'static Field {
        self.find(path).unwrap_or_else(|| panic!("the table has no field {path}"))
    }

    /// The first row of `format` at `path`, or below it.
    pub(super) fn first_in(&self, path: &str, format: Format) -> Option<&'static Field> {
        let is_below = |field: &Field| {
            let rest = field.path.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.0.iter().find(|field| field.is_in(format) && is_below(field)).copied()
    }

    /// What `format` has at `path`, which is one of the table or the beginning of one.
    pub(super) fn shape(&self, path: &str, format: Format) -> Shape {
        let mut names = Vec::new();
        for field in self.0.iter().filter(|field| field.is_in(format)) {
            let Some(rest) = field.path.strip_prefix(path) else {
                continue;
            };
            let rest = match rest.strip_prefix('.') {
                _ if path.is_empty() => rest,
                None if rest.is_empty() => return Shape::Text(field),
                None if rest.starts_with("[]") => return Shape::List,
                None => continue,
                Some(rest) => rest,
            };
            let name = rest.split(['.', '[']).next().unwrap_or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Shape::Map(names)
    }

    /// The rows but those that only other software reads, each with its path in Markdown.
    pub(super) fn documented(self) -> impl Iterator<Item = (String, &'static Field)> {
        let ours = self.0.into_iter().filter(|field| !field.is_foreign());
        ours.map(|field| {
            let name = if field.path.starts_with("api.") { "<path>" } else { "<name>" };
            (field.path.replace('*', name), field)
        })
    }

    /// The table of the reference, in Markdown.
    #[cfg(test)]
    pub(super) fn reference(self) -> String {
        let mut table =
            "| Field | Files with | Kind | Default | Meaning |\n|---|---|---|---|---|\n".to_owned();
        for (path, field) in self.documented() {
            let kind = match field.path.ends_with("[]") {
                true => format!("list of {}", field.kind),
                false => field.kind.to_owned(),
            };
            let formats = match (field.is_in(Format::KeyStore), field.is_in(Format::Newest)) {
                (true, true) => "both",
                (true, false) => "`root`",
                _ => "`admin`",
            };
            let default = |default| match default {
                "" => field.unset.to_owned(),
                default => format!("`{default}`"),
            };
            let (older, newest) = (field.older_default, field.newest_default);
            let default = match (field.is_in(Format::KeyStore), older == newest) {
                (true, false) => format!("{}; with `admin` {}", default(older), default(newest)),
                _ => default(newest),
            };
            let mut about = field.about.to_owned();
            if !field.flag.is_empty() {
                about += &format!(". Flag `{}`", field.flag);
            }
            if field.is_in(Format::KeyStore) && !field.is_in(Format::Keys) {
                about += ". From KES 0.13.6 on";
            }
            about += match field.known {
                Known::Everywhere => "",
                Known::Since0_18 => ". Not a field of KES 0.14",
                Known::Nowhere => ". Not a field of other KES",
            };
            table += &format!("| `{path}` | {formats} | {kind} | {default} | {about} |\n");
        }
        table
    }
}
