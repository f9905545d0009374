#!/usr/bin/env bash
# The packages: what is in them, and the Debian package on a machine of its own with a real systemd, from
# `dpkg -i` with the commands that it prints to the first data key, an upgrade, removal and purge.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/machine.sh
. "$REPO/scripts/it/machine.sh"
need cargo python3 dpkg-deb lintian
at_exit() { stop_machine; }
"$REPO/scripts/wheel" cyclonedx-python-lib jsonschema attrs pyrsistent >wheels 2>wheels.log || skip "$(cat wheels.log)"
DENY="$("$REPO/scripts/cargo-deny" 2>wheels.log)" || skip "$(cat wheels.log)"

step 'the same files make the same bytes'
# A second build would take both cores for more than a minute: `scripts/package --twice` is for people.
mkdir first second
"$REPO/scripts/package" --binary "$KES" --output first >first.list
(umask 077; TZ=Asia/Tokyo "$REPO/scripts/package" --binary "$KES" --output second >/dev/null)
equal 'files' 4 "$(wc -l <first.list)"
equal 'the second time' "$(cat first/SHA256SUMS)" "$(cat second/SHA256SUMS)"
(cd first && sha256sum --quiet --check SHA256SUMS) || fail 'SHA256SUMS do not fit'
cat first/SHA256SUMS
DEB="$(head -n 1 first.list)"

step 'no path of the build is in them'
dpkg-deb -x "$DEB" deb
mkdir archive && tar -xzf first/*.tar.gz -C archive --strip-components=1
for path in "$REPO" "${CARGO_HOME:-$HOME/.cargo}" "$WORK"; do
    ! grep -raqF "$path" deb archive first/*.json || fail "$path is in $(grep -raFl "$path" deb archive first/*.json)"
done

step 'the archive has what the package has'
(cd deb/usr && find . -path ./share/doc -prune -o -path ./share/lintian -prune -o -type f -print | sort | xargs sha256sum) >deb.list
(cd archive && find bin lib share -type f -printf './%p\n' | sort | xargs sha256sum) >archive.list
equal 'files' "$(cat deb.list)" "$(cat archive.list)"
equal 'program' "$(sha256sum <"$KES")" "$(sha256sum <deb/usr/bin/kes)"
[ -s archive/LICENSE ] && [ -s archive/README.md ] || fail 'texts are missing'
identity server --server --ip 127.0.0.1
KES_ADMIN_IDENTITY="$(identity_of server | tr 0-9a-f 1-9a-f0)" MY_APP_IDENTITY="$(identity_of server)"
export KES_ADMIN_IDENTITY MY_APP_IDENTITY
sed 's|/etc/kes/private.key|server.key|; s|/etc/kes/public.crt|server.crt|' archive/examples/config.yaml >example.yaml
kes config check example.yaml >findings 2>&1 || fail "the example of a configuration: $(cat findings)"

step 'list of the crates'
python3 - first/*.cdx.json <<'PYTHON' || fail 'the SBOM is wrong'
import json, sys
bom = json.load(open(sys.argv[1]))
names = {c["name"] for c in bom["components"]}
assert {"rustls", "ring", "kes-aead", "glibc"} <= names, names
assert not {"syn", "serde_derive", "cc", "proc-macro2"} & names, names
refs = {c["bom-ref"] for c in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
assert len(refs) == len(bom["components"]) + 1
for d in bom["dependencies"]:
    assert d["ref"] in refs and set(d["dependsOn"]) <= refs, d
print(f"{len(names)} components")
PYTHON
# By the schema that CycloneDX publishes.
PYTHONPATH="$(tail -n 3 wheels | paste -sd :)" python3 - "$(head -n 1 wheels)" first/*.cdx.json <<'PYTHON' || fail 'the SBOM is not valid'
import json, sys, zipfile
from jsonschema import Draft7Validator, FormatChecker, RefResolver
folder = zipfile.ZipFile(sys.argv[1])
read = lambda name: json.loads(folder.read(f"cyclonedx/schema/_res/{name}.SNAPSHOT.schema.json"))
schema, others = read("bom-1.6"), [read("spdx"), read("jsf-0.82")]
resolver = RefResolver.from_schema(schema, store={other["$id"]: other for other in others})
validator = Draft7Validator(schema, resolver=resolver, format_checker=FormatChecker())
bom = json.load(open(sys.argv[2]))
errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(bom)]
assert not errors, errors
bom["components"][0]["hashes"][0]["alg"] = "rot13"
assert not validator.is_valid(bom), "everything is valid"
PYTHON

step 'a crate under the AGPL would be refused'
for name in . copied; do
    mkdir -p "crate/$name/src" && : >"crate/$name/src/lib.rs"
    printf '[package]\nname = "crate-%s"\nversion = "1.0.0"\nlicense = "%s"\n' ${name/./top} AGPL-3.0-only >"crate/$name/Cargo.toml"
done
sed -i 's/AGPL-3.0-only/MIT/' crate/Cargo.toml
printf '[dependencies]\ncrate-copied = { path = "copied" }\n' >>crate/Cargo.toml
cp "$REPO/deny.toml" crate/deny.toml
if (cd crate && "$DENY" --offline check licenses >out 2>&1); then fail "it passes: $(cat crate/out)"; fi
grep -q 'AGPL-3.0-only.*Affero' crate/out || fail "it fails otherwise: $(cat crate/out)"

step 'lintian'
lintian --fail-on error,warning "$DEB" 2>lintian.err || fail "lintian: $(cat lintian.err)"

step 'a machine with nothing but the package'
machine
# Its index of all man pages takes longer than the rest.
on_machine rm -f /var/lib/man-db/auto-update
on_machine sh -euc 'dpkg --purge kes 2>/dev/null; userdel kes 2>/dev/null; rm -rf /etc/kes /var/lib/kes' || true
# install DEB
install_deb() { on_machine sh -euc 'cat >/root/kes.deb; dpkg -i /root/kes.deb' <"$1"; }
# has TEXT FORMAT FILE: as `stat` prints it.
has() { equal "$3" "$1" "$(on_machine stat -c "$2" "$3")"; }
# state PROPERTY: of the service.
state() { on_machine systemctl show --property "$1" --value kes.service; }
# commands_of SECTION: the indented lines of the page, as a script.
commands_of() { awk -v section="## $1" '/^## /{on = ($0 == section)} on && /^    /{print substr($0, 5)}' "$REPO/docs/packages.md"; }
began=$(milliseconds)
install_deb "$DEB" | tee printed
has '750 root:kes' '%a %U:%G' /etc/kes
has '700 kes:kes' '%a %U:%G' /var/lib/kes/keys
equal 'enabled' enabled "$(on_machine systemctl is-enabled kes.service)"
equal 'state' inactive "$(state ActiveState)"

# The indented lines are commands. Those of `kes init` start the server, and make the first data key.
sed -n 's/^    //p' printed >commands
equal 'commands that the package prints' 'kes init --systemd' "$(cat commands)"
as_printed() { on_machine sh -eux -c "$(cat commands)" </dev/null || fail "$(on_machine journalctl --unit kes --no-pager --lines 20)"; }
as_printed | tee printed
commands_of_init() { awk '/^[^ ]/{on = /^(Start it|Command line)/} on && /^  /{print substr($0, 3)}' printed; }
commands_of_init >commands
as_printed | tee answer
echo
grep -q '^{"plaintext":"[^"]\{44\}","ciphertext":"' answer || fail 'no data key'
echo "from dpkg -i to the data key: $(($(milliseconds) - began)) ms"
[ $(($(milliseconds) - began)) -lt 60000 ] || fail 'it took more than a minute'
equal 'commands of the page' 'dpkg -i kes_*.deb,kes init --systemd,systemctl enable --now kes' \
    "$(commands_of 'Debian and Ubuntu' | paste -sd ,)"
equal 'commands of the README' 'scripts/package,dpkg -i target/package/kes_*.deb,kes init --systemd,systemctl enable --now kes' \
    "$(awk '/^## /{on = /^## A service of the system/} on && /^    /{print substr($0, 5)}' "$REPO/README.md" | paste -sd ,)"
equal 'how it starts' 'systemctl enable --now kes' "$(head -n 1 commands)"
has '640 root:kes' '%a %U:%G' /etc/kes/config.yaml
has '640 root:kes' '%a %U:%G' /etc/kes/private.key
has kes %U "/proc/$(state MainPID)"
grep '^export ' commands >environment
# as_admin COMMAND...: with what `kes init` printed.
as_admin() { on_machine sh -euc "$(cat environment); $*"; }
SEALED="$(member ciphertext <answer)"
can_decrypt() { contains "$(as_admin kes key decrypt my-key "$SEALED")" plaintext; }

step 'an upgrade restarts it on the same configuration, and refuses nobody that comes by its socket'
dpkg-deb -R "$DEB" newer
sed -i 's/^Version: .*/&.1/' newer/DEBIAN/control
dpkg-deb --root-owner-group -Znone --build newer newer.deb >/dev/null
on_machine sh -c 'echo "# mine" >>/etc/kes/config.yaml'
awk '/^(\*\*|## )/{on = /^..Restarts without a refused/} on && /^    /{print substr($0, 5)}' "$REPO/docs/operations.md" >commands
equal 'commands' 'systemctl stop kes.service,systemctl enable --now kes.socket kes.service' "$(paste -sd , commands)"
as_printed
before="$(state MainPID)" configuration="$(on_machine sha256sum /etc/kes/config.yaml)"
as_admin 'while [ ! -e /root/enough ]; do kes key dek my-key >/dev/null; echo; done' >served 2>refused & clients=$!
within 20 test -s served
install_deb newer.deb
[ "$before" != "$(state MainPID)" ] || fail 'it still runs the old program'
equal 'state' active "$(state ActiveState)"
count="$(wc -l <served)"
more_are_served() { [ "$(wc -l <served)" -gt $((count + 3)) ]; }
within 20 more_are_served || fail 'clients are not served'
on_machine touch /root/enough
wait "$clients" || fail "refused: $(cat refused)"
echo "$(wc -l <served) calls, 0 refused"
equal 'configuration' "$configuration" "$(on_machine sha256sum /etc/kes/config.yaml)"
has '750 root:kes' '%a %U:%G' /etc/kes
contains "$(on_machine dpkg-query -W kes)" '-1.1' || fail 'it was not upgraded'

step 'one that was disabled and stopped stays so'
on_machine systemctl disable --now kes.service kes.socket 2>/dev/null
install_deb "$DEB" >printed 2>&1
equal 'enabled' disabled "$(on_machine systemctl is-enabled kes.service)"
equal 'state' inactive "$(state ActiveState)"
contains "$(cat printed)" 'systemctl start kes' || fail "it does not say so: $(cat printed)"
on_machine systemctl enable --now kes.service 2>/dev/null
can_decrypt || fail 'the key is lost'

step 'removed, it leaves configuration and keys'
on_machine dpkg --remove kes
equal 'state' inactive "$(state ActiveState)"
! on_machine test -e /usr/bin/kes || fail 'the program is there'
equal 'configuration' "$configuration" "$(on_machine sha256sum /etc/kes/config.yaml)"
install_deb "$DEB" >printed 2>&1
on_machine systemctl enable --now kes.service 2>/dev/null
can_decrypt || fail 'the key is lost'

step 'purged, it leaves the keys, and says where'
on_machine dpkg --purge kes >printed 2>&1
contains "$(cat printed)" 'not deleted, because keys may be in it: /var/lib/kes' || fail "it says: $(cat printed)"
! on_machine test -e /etc/kes || fail "/etc/kes has $(on_machine ls /etc/kes)"
on_machine test -s /var/lib/kes/keys/my-key || fail 'the key is lost'

step 'where no systemd runs, it installs as well, and takes the keys that are there'
on_machine unshare --mount sh -euc 'mount -t tmpfs none /run; dpkg -i /root/kes.deb' >printed 2>&1 || fail "$(cat printed)"
on_machine systemctl daemon-reload
on_machine kes init --systemd </dev/null >printed
commands_of_init >commands
grep '^export ' commands >environment
sed -i '/^systemctl/!d' commands
as_printed
can_decrypt || fail 'the key is lost'

step 'the archive'
on_machine dpkg --purge kes >/dev/null 2>&1
on_machine sh -euc 'userdel kes; rm -rf /var/lib/kes; mkdir /root/archive; tar -xf - -C /root/archive' \
    < <(tar -cf - -C first .)
commands_of 'Other systems' >commands
equal 'commands' 6 "$(wc -l <commands)"
on_machine sh -euc "cd /root/archive; $(cat commands)" </dev/null >printed 2>err || fail "$(cat printed err)"
commands_of_init | sed '/^systemctl/d' | on_machine sh -eu >answer
grep -q '^{"plaintext":"[^"]\{44\}"' answer || fail 'no data key'
