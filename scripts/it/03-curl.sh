#!/usr/bin/env bash
# The whole API as curl sees it: answers, their exact framing, and odd but legal ways to ask.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene
start

step 'version'
api GET /version; is 200
contains "$BODY" '{"version":"' || fail "the version is '$BODY'"

step 'create'
api POST /v1/key/create/my-key; is 200 ''
api POST /v1/key/create/my-key; is 400 '{"message":"key does already exist"}'
equal 'content type of errors' 'application/json; charset=utf-8' "$(header Content-Type)"
equal 'sniffing' 'nosniff' "$(header X-Content-Type-Options)"
api PUT /v1/key/create/put-key; is 200 ''
api GET /v1/key/create/get-key; is 405 '{"message":"Method Not Allowed"}'
equal 'expected method' 'POST' "$(header Accept)"

step 'import'
key="$(random_base64 32)"
api POST /v1/key/import/imported --data "{\"bytes\":\"$key\"}"; is 200 ''
equal 'stored as' "{\"bytes\":\"$key\"}" "$(cat keys/imported)"
api POST /v1/key/import/imported --data "{\"bytes\":\"$key\"}"; is 400 '{"message":"key does already exist"}'
api POST /v1/key/import/short --data "{\"bytes\":\"$(random_base64 31)\"}"; is 400 '{"message":"invalid key"}'
api POST /v1/key/import/long --data "{\"bytes\":\"$(random_base64 33)\"}"; is 400 '{"message":"invalid key"}'
api POST /v1/key/import/none --data '{}'; is 400 '{"message":"invalid key"}'
api POST /v1/key/import/not-json --data 'bytes'; is 400 '{"message":"invalid json"}'
api POST /v1/key/import/not-base64 --data '{"bytes":"%%%%"}'; is 400 '{"message":"invalid json"}'

step 'generate, and decrypt again'
api POST /v1/key/generate/my-key --data '{}'; is 200
plaintext="$(member plaintext <body)" ciphertext="$(member ciphertext <body)"
equal 'bytes of a data key' 32 "$(printf %s "$plaintext" | base64 -d | wc -c)"
api POST /v1/key/decrypt/my-key --data "{\"ciphertext\":\"$ciphertext\"}"
is 200 "{\"plaintext\":\"$plaintext\"}"
api POST /v1/key/generate/missing --data '{}'; is 404 '{"message":"key does not exist"}'
api POST /v1/key/generate/my-key; is 400 '{"message":"invalid json"}'
api POST /v1/key/generate/missing --data 'x'; is 400 '{"message":"invalid json"}'

step 'encrypt with a context, and decrypt with it only'
message="$(printf 'hello world' | base64_line)" context="$(printf 'a/b' | base64_line)"
api POST /v1/key/encrypt/imported --data "{\"plaintext\":\"$message\",\"context\":\"$context\"}"; is 200
sealed="$(member ciphertext <body)"
api POST /v1/key/decrypt/imported --data "{\"ciphertext\":\"$sealed\",\"context\":\"$context\"}"
is 200 "{\"plaintext\":\"$message\"}"
api POST /v1/key/decrypt/imported --data "{\"ciphertext\":\"$sealed\"}"
is 400 '{"message":"decryption failed: ciphertext is not authentic"}'
api POST /v1/key/decrypt/my-key --data "{\"ciphertext\":\"$sealed\",\"context\":\"$context\"}"
is 400 '{"message":"decryption failed: ciphertext is not authentic"}'
api POST /v1/key/decrypt/imported --data "{\"ciphertext\":\"$(printf '{' | base64_line)\"}"
is 400 '{"message":"decryption failed: ciphertext is not authentic"}'

step 'list, with unrequested trailers'
api GET '/v1/key/list/*'; is 200
equal 'content type of lists' 'application/x-ndjson' "$(header Content-Type)"
equal 'keys' '{"Name":"imported"} {"Name":"my-key"} {"Name":"put-key"}' "$(sort body | tr '\n' ' ' | sed 's/ $//')"
api GET '/v1/key/list/my-*'; is 200 '{"Name":"my-key"}'
api GET /v1/key/list/; is 200
equal 'keys without a pattern' 3 "$(wc -l <body)"
api GET '/v1/key/list/nothing*' --globoff; is 200 ''
ask --http1.1 --raw --output raw --dump-header head.txt "$URL/v1/key/list/my-*"
equal 'announced trailers' 'Status, Error' "$(header Trailer)"
equal 'chunks and trailers' '12|{"Name":"my-key"}||0|Status: 200|Error:||' "$(tr -d '\r' <raw | sed 's/ *$//' | tr '\n' '|')"
ask --http1.1 --raw --output raw "$URL/v1/key/list/nothing*"
equal 'trailers of an empty list' '0|Status: 200|Error:||' "$(tr -d '\r' <raw | sed 's/ *$//' | tr '\n' '|')"

step 'the same over HTTP/2'
ask --http2 --output body --dump-header head.txt "$URL/v1/key/list/my-*"
equal 'protocol, announced and sent trailers' 'HTTP/2 200|trailer: Status, Error|status: 200|error:|' \
    "$(tr -d '\r' <head.txt | sed 's/ *$//' | grep -iE '^(HTTP|trailer|status|error)' | tr '\n' '|')"
equal 'keys over HTTP/2' '{"Name":"my-key"}' "$(cat body)"

step 'many requests on one connection of HTTP/2'
# curl resets each stream that has ended without a body.
ask --http2 --request DELETE --output many --write-out '%{http_code} %{num_connects}\n' \
    "$URL/v1/key/delete/none-[1-1500]" | sort | uniq -c >counts
equal 'answers and new connections' '1499 200 0|1 200 1' "$(sed 's/^ *//' counts | paste -sd '|')"

step 'delete'
api DELETE /v1/key/delete/put-key; is 200 ''
api DELETE /v1/key/delete/put-key; is 200 ''
api POST /v1/key/generate/put-key --data '{}'; is 404 '{"message":"key does not exist"}'

step 'names that are none'
for name in '' . .. a%2Fb 'a%5Cb' a%00b a%0Ab "$(printf 'n%.0s' $(seq 256))"; do
    api POST "/v1/key/create/$name"
    case "$STATUS $BODY" in
        '400 {"message":"invalid key name"}' | '400 {"message":"request URL path does not match'*) ;;
        *) fail "the name '$name' was answered $STATUS '$BODY'" ;;
    esac
done
api POST "/v1/key/create/$(printf 'n%.0s' $(seq 255))"; is 200 ''
api DELETE "/v1/key/delete/$(printf 'n%.0s' $(seq 255))"; is 200 ''
equal 'files' 'imported my-key' "$(find keys -type f -printf '%f\n' | sort | tr '\n' ' ' | sed 's/ $//')"

step 'paths that are none'
api GET /nothing; is 404 '404 page not found'
equal 'content type' 'text/plain; charset=utf-8' "$(header Content-Type)"

step 'bodies in chunks, with and without Expect: 100-continue'
printf '{"context":"%s"}' "$(head -c 200000 /dev/zero | base64_line)" >large
api POST /v1/key/generate/my-key --http1.1 --header 'Transfer-Encoding: chunked' --data-binary @large; is 200
for protocol in HTTP/1.1 HTTP/2; do
    api POST /v1/key/generate/my-key "--$(tr -d / <<<"${protocol,,}")" --header 'Expect: 100-continue' --data-binary @large
    is 200
    grep -q "^$protocol 100" head.txt || fail "there was no 100 Continue over $protocol"
done
api POST /v1/key/generate/my-key --header 'Expect:' --data-binary @large; is 200

step 'bodies that are too large'
head -c 600000 /dev/zero | base64_line | sed 's/^/{"plaintext":"/; s/$/"}/' >huge
api POST /v1/key/encrypt/my-key --data-binary @huge; is 400 '{"message":"invalid json"}'
head -c 1200000 /dev/zero | base64_line | sed 's/^/{"context":"/; s/$/"}/' >huge
api POST /v1/key/generate/my-key --http1.1 --header 'Transfer-Encoding: chunked' --data-binary @huge
is 400 '{"message":"invalid json"}'

step 'many requests on one connection'
ask --request POST --data '{}' --output /dev/null --write-out '%{http_code} %{num_connects}\n' \
    "$URL/v1/key/generate/my-key?[1-50]" >answers
equal 'answers' '49 200 0,1 200 1,' "$(sort answers | uniq -c | sed 's/^ *//' | tr '\n' ',')"

step 'HTTP/1.0'
api GET /version --no-alpn --http1.0; is 200
api POST /v1/key/generate/my-key --no-alpn --http1.0 --data '{}'; is 200
api GET '/v1/key/list/my-*' --no-alpn --http1.0; is 200 '{"Name":"my-key"}'
equal 'no chunks' '' "$(header Transfer-Encoding)"

step 'HEAD is an ordinary wrong method, answered without a body'
for protocol in HTTP/1.1 HTTP/2; do
    ask --head "--$(tr -d / <<<"${protocol,,}")" --output head.txt "$URL/version" || fail "HEAD failed with $?"
    grep -q "^$protocol 405" head.txt || fail "HEAD was answered $(head -n 1 head.txt)"
done

step 'an identity without a policy'
identity stranger
as stranger
api GET /version; is 200
api POST /v1/key/generate/my-key --data '{}'; is 403 '{"message":"prohibited by policy"}'
api GET '/v1/key/list/*'; is 403 '{"message":"prohibited by policy"}'
as root

stop
step 'every request was audited once'
equal 'audited denials' 2 "$(grep -c "\"identity\":\"$(identity_of stranger)\".*\"code\":403" out.log)"
equal 'audited paths' 1 "$(grep -c '"path":"/nothing"' out.log)"
