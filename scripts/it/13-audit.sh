#!/usr/bin/env bash
# A reader of the audit log that falls behind holds up no request, and the error log reports the loss.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene
need mkfifo

step 'stdout is a pipe that nobody reads'
mkfifo audit.pipe
exec 9<>audit.pipe
"$KES" server --config kes.yml --auth off --quiet >audit.pipe 2>err.log &
SERVER=$!
within 10 is_up || fail 'the server does not answer'

step 'all requests are answered'
ask --output /dev/null --write-out '%{http_code}\n' "$URL/version?[1-15000]" >many
equal 'answers' 15000 "$(grep -c '^200$' many)"

step 'the error log counts the lines that are lost, once'
within 5 grep -q 'audit lines are lost' err.log || fail 'no word about lost lines'
ask --output /dev/null "$URL/version?[1-200]"
sleep 2
equal 'events in the error log' 1 "$(wc -l <err.log)"
