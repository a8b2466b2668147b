#!/usr/bin/env bash
# A cluster in Docker for tests/e2e: kind, cert-manager, Knative Serving with Kourier, KServe, and the three images.
#
# NOT TRIED with a Docker engine so far. The versions are those of KServe 0.20.0's own
# kserve-deps.env (kind, cert-manager, Knative), the steps those of the projects' installation guides, and the settings
# those of the cluster on which tests/e2e does run.
#
#     tests/e2e/kind/up.sh              needs docker, kind, kubectl; about 6 CPUs and 8 GB
#     export KUBECONFIG=~/.kube/config INGRESS_URL=http://127.0.0.1:31080
#     .venv/bin/python -m pytest tests/e2e
#     kind delete cluster --name heimdall
set -euo pipefail
cd "$(dirname "$0")/../../.."

CERT_MANAGER=v1.17.0
KNATIVE=v1.21.1
KOURIER=v1.21.0
KSERVE=v0.20.0
GITHUB=https://github.com
VERSION=$(sed -n 's/^appVersion: //p' charts/heimdall/Chart.yaml)

# available NAMESPACE: every Deployment in it has its pods.
available() { kubectl wait --for=condition=Available deployment --all --namespace "$1" --timeout=300s; }

kind get clusters | grep -qx heimdall || kind create cluster --config tests/e2e/kind/cluster.yaml --wait 120s
kubectl config use-context kind-heimdall

kubectl apply -f "$GITHUB/cert-manager/cert-manager/releases/download/$CERT_MANAGER/cert-manager.yaml"
available cert-manager

kubectl apply -f "$GITHUB/knative/serving/releases/download/knative-$KNATIVE/serving-crds.yaml"
kubectl wait --for=condition=Established --all crd --timeout=60s
kubectl apply -f "$GITHUB/knative/serving/releases/download/knative-$KNATIVE/serving-core.yaml"
kubectl apply -f "$GITHUB/knative-extensions/net-kourier/releases/download/knative-$KOURIER/kourier.yaml"
settings() { kubectl patch configmap "$1" --namespace knative-serving --type merge --patch "{\"data\": $2}"; }
settings config-network '{"ingress-class": "kourier.ingress.networking.knative.dev"}'
settings config-domain '{"example.com": ""}'
settings config-observability '{"metrics-protocol": "prometheus", "request-metrics-protocol": "prometheus"}'
# The images are on the node only: there is no digest to ask a registry for.
settings config-deployment '{"registries-skipping-tag-resolving": "index.docker.io,docker.io,kind.local,ko.local,dev.local"}'
kubectl patch service kourier --namespace kourier-system --type json --patch \
    '[{"op": "replace", "path": "/spec/type", "value": "NodePort"}, {"op": "add", "path": "/spec/ports/0/nodePort", "value": 31080}]'
available knative-serving
available kourier-system

kubectl apply --server-side --force-conflicts -f "$GITHUB/kserve/kserve/releases/download/$KSERVE/kserve.yaml"
kubectl wait --for=condition=Available deployment/kserve-controller-manager --namespace kserve --timeout=300s
# KServe makes Istio's objects unless told that the ingress is another.
kubectl get configmap inferenceservice-config --namespace kserve --output jsonpath='{.data.ingress}' |
    python3 -c 'import json, sys
kourier = {"disableIstioVirtualHost": True, "ingressClassName": "kourier",
           "localGatewayService": "kourier-internal.kourier-system.svc.cluster.local"}
print(json.dumps({"data": {"ingress": json.dumps(json.load(sys.stdin) | kourier)}}))' |
    kubectl patch configmap inferenceservice-config --namespace kserve --type merge --patch-file /dev/stdin
kubectl rollout restart deployment/kserve-controller-manager --namespace kserve
kubectl rollout status deployment/kserve-controller-manager --namespace kserve --timeout=300s

for component in predictor transformer rollout; do
    docker build --tag "docker.io/heimdall/$component:$VERSION" --file "$component/Dockerfile" .
    kind load docker-image --name heimdall "docker.io/heimdall/$component:$VERSION"
done
echo "ready: export INGRESS_URL=http://127.0.0.1:31080"
