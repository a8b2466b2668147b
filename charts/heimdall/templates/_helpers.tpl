{{/*
Every name, label and block that more than one template needs. Templates themselves hold no names of their own.
*/}}

{{/* Name of the InferenceService, and the beginning of the other names. */}}
{{- define "heimdall.name" -}}
{{- .Values.name | default .Release.Name -}}
{{- end -}}

{{- define "heimdall.predictorAccount" -}}{{ include "heimdall.name" . }}-predictor{{- end -}}
{{- define "heimdall.transformerAccount" -}}{{ include "heimdall.name" . }}-transformer{{- end -}}
{{- define "heimdall.redis" -}}{{ include "heimdall.name" . }}-redis{{- end -}}
{{- define "heimdall.minio" -}}{{ include "heimdall.name" . }}-minio{{- end -}}
{{- define "heimdall.upload" -}}{{ include "heimdall.name" . }}-upload{{- end -}}

{{- define "heimdall.storageSecret" -}}
{{- .Values.storage.s3.existingSecret | default (printf "%s-s3" (include "heimdall.name" .)) -}}
{{- end -}}

{{/* The ClusterStorageContainer is an object of the whole cluster, so its name holds the namespace. */}}
{{- define "heimdall.storageContainer" -}}
{{- if .Values.storage.container.create -}}
{{- printf "%s-%s" .Release.Namespace (include "heimdall.name" .) -}}
{{- else -}}
{{- .Values.storage.container.name -}}
{{- end -}}
{{- end -}}

{{- define "heimdall.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/*
Labels of every object. Neither the chart's nor the service's version is among them: KServe copies the InferenceService's
labels to the pods, so a label that changes with each release would make a new revision, and with it a new canary.
*/}}
{{- define "heimdall.labels" -}}
app.kubernetes.io/name: heimdall
app.kubernetes.io/instance: {{ include "heimdall.name" . }}
{{- end -}}

{{/* Labels by which Services and policies find the pods of Redis and MinIO. Give `root` and `component`. */}}
{{- define "heimdall.selector" -}}
app.kubernetes.io/instance: {{ include "heimdall.name" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* What Pod Security "restricted" asks of a container, and a file system that nothing writes to. */}}
{{- define "heimdall.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/*
What the rollout owns, as JSON: storageUri, version, digest and canaryPercent. Under `owner: live` they are read from the
cluster as soon as the service exists, so that an upgrade changes neither model nor split. `helm template` sees no cluster.
*/}}
{{- define "heimdall.rollout" -}}
{{- $rollout := dict "storageUri" .Values.model.storageUri "version" .Values.model.version "digest" .Values.model.digest -}}
{{- if kindIs "invalid" .Values.canary.percent | not -}}
{{- $_ := set $rollout "canaryPercent" (int .Values.canary.percent) -}}
{{- end -}}
{{- $live := dict -}}
{{- if eq .Values.model.owner "live" -}}
{{- $live = lookup "serving.kserve.io/v1beta1" "InferenceService" .Release.Namespace (include "heimdall.name" .) -}}
{{- end -}}
{{- if $live -}}
{{- $predictor := $live.spec.predictor -}}
{{- $rollout = dict "storageUri" $predictor.model.storageUri "version" "" "digest" "" "live" true -}}
{{- range $predictor.model.env -}}
{{- if eq .name "HEIMDALL_MODEL_VERSION" -}}{{- $_ := set $rollout "version" (.value | default "") -}}{{- end -}}
{{- if eq .name "HEIMDALL_MODEL_DIGEST" -}}{{- $_ := set $rollout "digest" (.value | default "") -}}{{- end -}}
{{- end -}}
{{- if hasKey $predictor "canaryTrafficPercent" -}}
{{- $_ := set $rollout "canaryPercent" (int $predictor.canaryTrafficPercent) -}}
{{- end -}}
{{- end -}}
{{- /* Under the admission policies a percentage is always there: one that is missing gives everything to whatever comes next. */}}
{{- if and .Values.rollout.admission.enabled (not (hasKey $rollout "canaryPercent")) -}}
{{- $_ := set $rollout "canaryPercent" 100 -}}
{{- end -}}
{{- toJson $rollout -}}
{{- end -}}

{{/* Where the transformer finds Redis. */}}
{{- define "heimdall.redisEnv" -}}
{{- $redis := .Values.redis -}}
{{- if eq $redis.mode "bundled" -}}
- {name: REDIS_HOST, value: {{ include "heimdall.redis" . }}}
{{- else if and (eq $redis.mode "external") $redis.external.existingSecret -}}
- name: REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $redis.external.existingSecret }}, key: REDIS_URL}}
{{- else if eq $redis.mode "external" -}}
- {name: REDIS_HOST, value: {{ required "redis.external.host or existingSecret is needed" $redis.external.host | quote }}}
- {name: REDIS_PORT, value: {{ $redis.external.port | quote }}}
- {name: REDIS_DB, value: {{ $redis.external.database | quote }}}
{{- end -}}
{{- end -}}

{{/* Where the transformer asks which aliases the served version has. */}}
{{- define "heimdall.registryEnv" -}}
{{- with .Values.rollout }}
{{- if .mlflowUri -}}
- {name: MLFLOW_TRACKING_URI, value: {{ .mlflowUri | quote }}}
- {name: HEIMDALL_REGISTERED_MODEL, value: {{ .registeredModel | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where traces go, by OpenTelemetry's own names; whoever calls decides, else the share of sampleRatio is traced. */}}
{{- define "heimdall.tracingEnv" -}}
{{- with .Values.tracing }}
{{- if .enabled -}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .sampleRatio | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Annotations of the pods of one component. Give `root` and `component`. */}}
{{- define "heimdall.podAnnotations" -}}
serving.knative.dev/progress-deadline: {{ .root.Values.progressDeadlineSeconds }}s
{{- if .root.Values.metrics.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "8080"
prometheus.io/path: /metrics
{{- end }}
{{- with .component.annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How one component scales and how long it may take. Give the component. */}}
{{- define "heimdall.scaling" -}}
minReplicas: {{ .minReplicas }}
maxReplicas: {{ .maxReplicas }}
scaleMetric: concurrency
scaleTarget: {{ .concurrencyTarget }}
containerConcurrency: {{ .containerConcurrency }}
timeout: {{ .timeoutSeconds }}
{{- end -}}

{{/* The probes of the container that Knative routes to. Readiness every second: the default of 10 s delays every start. */}}
{{- define "heimdall.probes" -}}
readinessProbe:
  httpGet: {path: /v2/models/{{ .Values.model.name }}/ready, port: 8080}
  periodSeconds: 1
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end -}}

{{/* Where pods may run. Give `root` and `component`. */}}
{{- define "heimdall.placement" -}}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:{{ toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:{{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The transformer's container. Give `root`, and the `arguments` and `env` that differ between the modes. */}}
{{- define "heimdall.transformerContainer" -}}
{{- $values := .root.Values -}}
image: {{ include "heimdall.image" (dict "root" .root "image" $values.images.transformer) }}
imagePullPolicy: {{ $values.images.pullPolicy }}
args:
  - --model_name={{ $values.model.name }}
  - --workers=1
  - --http_port=8080
{{- if eq $values.protocol "grpc" }}
  - --enable_grpc=true
  - --grpc_port=9081
{{- else }}
  - --enable_grpc=false
{{- end }}
{{- range concat .arguments $values.transformer.extraArgs }}
  - {{ . | quote }}
{{- end }}
{{- $env := concat .env (include "heimdall.redisEnv" .root | fromYamlArray) (include "heimdall.tracingEnv" .root | fromYamlArray) }}
{{- $env = concat $env (include "heimdall.registryEnv" .root | fromYamlArray) $values.transformer.extraEnv }}
{{- with $env }}
env:{{ toYaml . | nindent 2 }}
{{- end }}
ports:
{{- if eq $values.protocol "grpc" }}
  - {name: h2c, containerPort: 9081, protocol: TCP}
{{- else }}
  - {containerPort: 8080, protocol: TCP}
{{- end }}
{{ include "heimdall.probes" .root }}
terminationMessagePolicy: FallbackToLogsOnError
resources:{{ toYaml $values.transformer.resources | nindent 2 }}
securityContext:{{ include "heimdall.containerSecurity" .root | nindent 2 }}
{{- end -}}
