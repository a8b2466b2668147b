{{/* CEL: the digest that an InferenceService names, or nothing. */}}
{{- define "heimdall.rolloutDigest" -}}
{{ . }}.spec.predictor.?model.?env.orValue([]).filter(e, e.name == 'HEIMDALL_MODEL_DIGEST').map(e, e.?value.orValue('')).join('')
{{- end -}}

{{/* The specification of a Job that runs one release. */}}
{{- define "heimdall.rolloutJob" -}}
{{- $name := include "heimdall.name" . -}}
{{- $image := include "heimdall.image" (dict "root" . "image" .Values.rollout.image) -}}
{{- if ne .Values.mode "separate" }}
{{- fail "rollout.run needs mode separate: collocated, nobody counts the calls of each arm (docs/rollout.md)" }}
{{- end }}
{{- if ne .Values.protocol "http" }}
{{- fail "rollout.run needs protocol http: the probe set is sent by it (docs/rollout.md)" }}
{{- end }}
# What failed or was killed is taken up by the next pod; what was decided, or refused, does not change by being asked again.
# A pod that its node has lost does not count at all.
backoffLimit: 3
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {containerName: rollout, operator: In, values: [1, 2, 3, 4]}
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget}]
ttlSecondsAfterFinished: 86400
template:
  metadata:
    labels:{{ include "heimdall.selector" (dict "root" . "component" "rollout") | nindent 6 }}
  spec:
    serviceAccountName: {{ $name }}-rollout
    restartPolicy: Never
    {{- with .Values.images.pullSecrets }}
    imagePullSecrets:
    {{- range . }}
      - name: {{ . }}
    {{- end }}
    {{- end }}
    containers:
      - name: rollout
        image: {{ $image }}
        imagePullPolicy: {{ .Values.images.pullPolicy }}
        args: [release, {{ .Values.rollout.reference | quote }}, --output, json{{ if eq .Values.rollout.run "scheduled" }}, --if-new{{ end }}{{ with .Values.rollout.reports }}, --html, {{ . | quote }}{{ end }}]
        env:
          - {name: HEIMDALL_NAMESPACE, value: {{ .Release.Namespace }}}
          - {name: HEIMDALL_SERVICE, value: {{ $name }}}
          - {name: HEIMDALL_MODEL_NAME, value: {{ .Values.model.name | quote }}}
          - {name: HEIMDALL_REGISTERED_MODEL, value: {{ .Values.rollout.registeredModel | quote }}}
          - {name: HEIMDALL_PROMETHEUS_URL, value: {{ .Values.rollout.prometheusUrl | quote }}}
          - {name: HEIMDALL_PROMETHEUS_SELECTOR, value: {{ .Values.rollout.prometheusSelector | quote }}}
          - {name: HEIMDALL_PROBE_SET, value: {{ .Values.rollout.probeSet | quote }}}
          - {name: HEIMDALL_ROLLOUT_IMAGE, value: {{ $image | quote }}}
          - {name: HEIMDALL_POLICY, value: /etc/heimdall/policy.json}
          - {name: MLFLOW_TRACKING_URI, value: {{ .Values.rollout.mlflowUri | quote }}}
          {{- if .Values.storage.s3.enabled }}
          {{- $secret := include "heimdall.storageSecret" . }}
          {{- with .Values.storage.s3.endpoint }}
          {{- $url := printf "%s://%s" (ternary "https" "http" $.Values.storage.s3.useHttps) . | quote }}
          - {name: AWS_ENDPOINT_URL, value: {{ $url }}}
          - {name: HEIMDALL_PROBE_ENDPOINT, value: {{ $url }}}
          {{- end }}
          - {name: AWS_DEFAULT_REGION, value: {{ .Values.storage.s3.region | quote }}}
          - {name: HEIMDALL_PROBE_SECRET, value: {{ $secret }}}
          - name: AWS_ACCESS_KEY_ID
            valueFrom: {secretKeyRef: {name: {{ $secret }}, key: AWS_ACCESS_KEY_ID}}
          - name: AWS_SECRET_ACCESS_KEY
            valueFrom: {secretKeyRef: {name: {{ $secret }}, key: AWS_SECRET_ACCESS_KEY}}
          {{- end }}
          {{- with .Values.rollout.extraEnv }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        resources:{{ toYaml .Values.rollout.resources | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:{{ include "heimdall.containerSecurity" . | nindent 10 }}
        volumeMounts:
          - {name: policy, mountPath: /etc/heimdall, readOnly: true}
          - {name: scratch, mountPath: /tmp}
    volumes:
      - name: policy
        configMap: {name: {{ $name }}-rollout-policy}
      # The model is read through a file of this size once; large ones need more.
      - {name: scratch, emptyDir: {sizeLimit: 4Gi}}
{{- end -}}
