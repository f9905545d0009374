#!/usr/bin/env bash
# deploy/kubernetes: the manifests pass the schemas of Kubernetes, where an unknown field is an error. Then the
# Kubernetes part of docs/containers.md, word for word, with the real kubectl and a real OpenBao, into which the
# servers log in with the token of their service account. The cluster is a stand-in: cluster.py takes the objects and
# lays out the pods' volume, and this test starts the servers, asks their probes and reports them as ready.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need python3 kubectl
build_go tests/tools stand-in
MANIFESTS="$REPO/deploy/kubernetes"

"$REPO/scripts/wheel" ruamel.yaml jsonschema attrs pyrsistent kubernetes-validate >wheels 2>wheels.log || skip "$(cat wheels.log)"
SCHEMAS="$(tail -n 1 wheels)"
head -n 4 wheels | while read -r wheel; do python3 -m zipfile -e "$wheel" packages; done
export PYTHONPATH="$WORK/packages"
manifests() { python3 -W ignore "$REPO/scripts/it/kubernetes.py" "$@"; }
# get FILE KIND PATH
get() { manifests get "$MANIFESTS/$1.yaml" "${@:2}"; }

step 'the manifests pass the schemas of Kubernetes, old and new'
manifests check "$SCHEMAS" 1.25,1.37 "$MANIFESTS"/*.yaml || fail 'they do not'

step 'the schemas find what is wrong'
number=0
for mistake in s/readOnlyRootFilesystem/readOnlyRootFileSystem/ s/minAvailable/minimumAvailable/ 's/containerPort: 7373/containerPort: https/' \
    's/audience: openbao/audiences: [openbao]/' 's/^  podSelector:/&\n&/' s/serviceAccountName/serviceAccounts/; do
    number=$((number + 1))
    sed "$mistake" "$MANIFESTS/kes.yaml" >"wrong-$number.yaml"
done
code=0; manifests check "$SCHEMAS" 1.37 wrong-?.yaml >wrong.out 2>&1 || code=$?
equal 'exit code' 1 "$code"
for number in $(seq "$number"); do
    grep -q "^wrong-$number.yaml: " wrong.out || fail "mistake $number passes: $(cat wrong.out)"
done

step 'what belongs together is called the same'
container='spec/template/spec/containers/0'
equal 'the flag' '["server", "--config=/etc/kes/config.yaml"]' "$(get kes Deployment $container/args)"
equal 'where it is mounted' '/etc/kes' "$(get kes Deployment $container/volumeMounts/0/mountPath)"
equal 'labels of the Service' "$(get kes Deployment spec/template/metadata/labels)" "$(get kes Service spec/selector)"
for kind in Deployment PodDisruptionBudget; do
    equal "labels of $kind" "$(get kes Deployment spec/template/metadata/labels)" "$(get kes "$kind" spec/selector/matchLabels)"
done
equal 'labels of NetworkPolicy' "$(get kes Deployment spec/template/metadata/labels)" "$(get kes NetworkPolicy spec/podSelector/matchLabels)"
# The MinIO operator reads the tag: the time of a release, as those of KES have.
for image in "$(get kes Deployment $container/image)" "$(get minio-operator Tenant spec/kes/image)"; do
    [[ $image =~ ^[a-z.]+/kes:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z$ ]] || fail "the image $image"
done

step 'OpenBao, and Kubernetes to ask about service accounts'
scene
identity minio
bao_start
part() { base64 | tr -d '=\n' | tr '/+' '_-'; }
jwt() {
    printf '%s.%s.%s' "$(printf '{"alg":"RS256","kid":"x"}' | part)" \
        "$(printf '{"iss":"https://kubernetes.default.svc","aud":["openbao"],"exp":%d,"iat":%d,"jti":"%s","kubernetes.io":{"namespace":"kes","serviceaccount":{"name":"kes","uid":"uid-1"}},"sub":"system:serviceaccount:kes:kes"}' \
            "$(($(date +%s) + 3600))" "$(date +%s)" "$1" | part)" "$(printf signature | part)"
}
jwt 1 >token
./stand-in token-review --port review.port --token token --namespace kes --account kes &
REVIEW=$!
CLUSTER='' FIRST=''
# shellcheck disable=SC2086
at_exit() { kill "$REVIEW" $CLUSTER $FIRST "$(cat part.pid)" 2>/dev/null || true; bao_at_exit; }
within 10 test -s review.port || fail 'the Kubernetes API does not start'

step 'a stand-in for the API server, and kubectl'
cluster() { python3 -W ignore "$REPO/scripts/it/cluster.py" "$@"; }
python3 -W ignore "$REPO/scripts/it/cluster.py" serve "$SCHEMAS" 1.37 api 2>api.log &
CLUSTER=$!
within 20 test -s api || fail "it does not start: $(cat api.log)"
API="$(cat api)"
export HOME="$WORK/home" KUBECONFIG="$WORK/home/config"
mkdir home && : >home/config
kubectl config set-cluster here --server "$API" >/dev/null
kubectl config set-context here --cluster here >/dev/null
kubectl config use-context here >/dev/null
# refuses TEXT ARGUMENTS...: kubectl fails with it.
refuses() {
    local text="$1"; shift
    if kubectl "$@" >refused 2>&1; then fail "kubectl $* succeeds"; fi
    contains "$(cat refused)" "$text" || fail "kubectl $*: $(cat refused)"
}
refuses 'namespaces "kes" not found' -n kes create configmap early --from-literal=a=b

step 'the commands of the page, until the pods start'
mkdir bin page page/deploy && ln -s "$BAO" bin/bao && ln -s "$KES" bin/kes
cp -r "$MANIFESTS" page/deploy/kubernetes && cp "$BAO_CA" page/openbao-ca.crt
# The one address that this test knows better.
awk '/^### /{inside = 1; next} /^## /{inside = 0} inside && /^    /' "$REPO/docs/containers.md" | sed \
    -e 's/^    //' -e "s|kubernetes_host=[^ ]*|kubernetes_host=http://127.0.0.1:$(cat review.port) disable_local_ca_jwt=true kubernetes_ca_cert=@$BAO_CA|" >commands
equal 'commands' '5 bao, 3 kes, 5 kubectl' "$(grep -oE '^(bao|kes|kubectl) ' commands | sort | uniq -c | awk '{print $1 " " $2}' | paste -sd , | sed 's/,/, /g')"
# run FROM TO: the commands from the one that begins so up to that which begins so, without it.
run() {
    awk -v from="$1" -v to="$2" 'index($0, from) == 1 { inside = 1 } index($0, to) == 1 { inside = 0 } inside' commands >part
    [ -s part ] || fail "no commands from '$1' to '$2'"
    (
        cd page
        export PATH="$WORK/bin:$PATH" BAO_ADDR="$BAO_URL" BAO_CACERT="$BAO_CA" BAO_TOKEN="$BAO_ROOT"
        echo $BASHPID >../part.pid
        exec timeout 600 bash -eu ../part >../part.out 2>&1   # ends kubectl with it
    ) || fail "the commands of the page: $(cat part part.out api.log)"
}
run 'kes identity new' 'kubectl create namespace'
contains "$(openssl x509 -in page/tls.crt -noout -checkhost kes.kes.svc.cluster.local)" 'does match' || fail 'the certificate is for another host'
# What the page says in words.
IDENTITY="$(tail -n 1 part.out)"
sed -i "s/\"0\{64\}\"/\"$IDENTITY\"/" page/deploy/kubernetes/kes.yaml
run 'kubectl create namespace' 'kubectl apply'
refuses '"kes" already exists' create namespace kes
awk -v RS='---\n' '/kind: Deployment/' wrong-1.yaml >wrong.yaml
refuses readOnlyRootFileSystem apply -f wrong.yaml
run 'kubectl apply' 'kubectl -n kes rollout'
equal 'objects' 'configmap created, deployment.apps created, namespace configured, networkpolicy.networking.k8s.io created, poddisruptionbudget.policy created, service created, serviceaccount created' \
    "$(sed -n 's|/kes \([a-z]*\)$| \1|p' part.out | sort | paste -sd , | sed 's/,/, /g')"
run 'kubectl apply' 'kubectl -n kes rollout'
# kubectl always writes the selector of a PodDisruptionBudget again.
equal 'objects that change once more' '' "$(grep -Ev ' unchanged$|^poddisruptionbudget.policy/kes configured$' part.out || true)"

# lay_out FOLDER TEXT: a projected volume at FOLDER with this configuration, which names FOLDER, and the rest.
lay_out() {
    rm -rf "$1" && mkdir -p "$1/..1"
    printf '%s\n' "$2" >"$1/..1/${3:-config.yaml}"
    cp server.key "$1/..1/private.key" && cp server.crt "$1/..1/public.crt" && cp token "$1/..1/token" && cp "$BAO_CA" "$1/..1/openbao-ca.crt"
    chmod 400 "$1/..1/private.key"
    ln -s ..1 "$1/..data"
    local file
    for file in "$1"/..1/*; do ln -s "..data/${file##*/}" "$1/"; done
}
# here: the configuration on stdin with the addresses and folders of this test.
PROBE="127.0.0.1:$(free_port)"
here() {
    sed -e "s|/etc/kes/|$WORK/volume/|; s|0\.0\.0\.0:7373|127.0.0.1:$PORT|; s|0\.0\.0\.0:7374|$PROBE|" \
        -e "s|https://openbao\.openbao\.svc\.cluster\.local:8200|$BAO_URL|; s|\"0\{64\}\"|\"$(identity_of minio)\"|"
}

step 'the pods start with what kubectl has created, and the rollout waits for them'
run 'kubectl -n kes rollout' 'no more' &
ROLLOUT=$!
# pod NAME: starts one, on other addresses than a pod has; it is the one that is asked.
pod() {
    local volume="$WORK/$1" path
    PORT="$(free_port)" PROBE="127.0.0.1:$(free_port)"
    URL="https://kes.kes.svc.cluster.local:$PORT"
    cluster mount "$API" kes/kes token "$volume" || fail 'the volume can not be mounted'
    # Those that the configuration names, and no others.
    equal 'files' "$(sed -n 's|.*: /etc/kes/\(.*\)|\1|p' "$volume/config.yaml" | sort)" "$(cd "$volume" && find . -type l ! -name ..data ! -name config.yaml -printf '%P\n' | sort)"
    here <"$volume/config.yaml" | sed "s|$WORK/volume/|$volume/|" >config.yaml
    cp config.yaml "$volume/..1/config.yaml"
    kes config check "$volume/config.yaml" >findings 2>&1 || fail "$(cat findings)"
    grep -qx "$volume/config.yaml: ok" findings || fail "something looks wrong: $(cat findings)"
    printf 'connect-to = "::127.0.0.1:"\n' >.curlrc
    "$KES" server --config="$volume/config.yaml" >>out.log 2>>err.log &
    SERVER=$!
    for path in startupProbe readinessProbe livenessProbe; do
        within 20 curl --silent --fail --output /dev/null --max-time 10 "http://$PROBE$(get kes Deployment $container/$path/httpGet/path)" ||
            fail "$path: $(tail -n 5 err.log)"
    done
}
cp page/tls.crt server.crt && cp page/tls.key server.key && cp page/minio.crt page/minio.key .
as minio
export CURL_HOME="$WORK"
within 20 grep -q '0 of 2 updated replicas are available' part.out || fail "the rollout does not wait: $(cat part.out)"
pod first
cluster available "$API" kes/kes 1
within 20 grep -q '1 of 2 updated replicas are available' part.out || fail "the rollout does not wait for the second pod: $(cat part.out)"
within 20 is_up || fail "it does not answer: $(cat err.log)"
api PUT /v1/key/create/minio-key; is 200
api PUT /v1/key/generate/minio-key --data '{}'; is 200
api GET /v1/status; is 200
api PUT /v1/key/create/other-key; is 403
bao kv list -format=json kes >names
grep -q '"minio-key"' names || fail 'the key is not in OpenBao'

step 'the second pod takes over the key, and the rollout ends'
FIRST=$SERVER
pod second
cluster available "$API" kes/kes 2
wait "$ROLLOUT" || fail 'the rollout fails'
contains "$(tail -n 1 part.out)" '"kes" successfully rolled out' || fail "the rollout: $(cat part.out)"
within 20 is_up || fail 'the second server does not answer'
kill -TERM "$FIRST" && wait "$FIRST"
api PUT /v1/key/generate/minio-key --data '{}'; is 200
stop

step 'the configuration for the MinIO operator is served, too'
get minio-operator Secret stringData/server-config.yaml | here | sed "s|/tmp/kes/server.key|$WORK/volume/private.key|; s|/tmp/kes/server.crt|$WORK/volume/public.crt|
    s|/var/run/secrets/kubernetes.io/serviceaccount/ca.crt|$WORK/volume/openbao-ca.crt|; s|/var/run/secrets/kubernetes.io/serviceaccount/token|$WORK/volume/token|" >operator.yaml
lay_out "$WORK/volume" "$(cat operator.yaml)" server-config.yaml
MINIO_KES_IDENTITY="$(identity_of minio)"
export MINIO_KES_IDENTITY
kes config check volume/server-config.yaml >findings 2>&1 || fail "$(cat findings)"
grep -qx 'volume/server-config.yaml: ok' findings || fail "something looks wrong: $(cat findings)"
# With the flag of older images, too, which a file with `admin` does not need.
for flags in '' --auth=off; do
    # shellcheck disable=SC2086
    "$KES" server --config=volume/server-config.yaml $flags >>out.log 2>>err.log &
    SERVER=$!
    within 20 is_up || fail "it does not answer with '$flags'"
    api PUT /v1/key/generate/minio-key --data '{}'; is 200
    stop
done
