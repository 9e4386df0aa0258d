{{/* The name of the StatefulSet, of its headless service and of its pods' label. Sentry's certificates and the sidecar injector count on it. */}}
{{- define "raftsched.server" -}}dapr-scheduler-server{{- end -}}

{{- define "raftsched.volume" -}}dapr-scheduler-data-dir{{- end -}}

{{/* A value as a word of a command line: numbers of a values file are floats here, and 1000000 must not become 1e+06. */}}
{{- define "raftsched.word" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* What cannot work is said before anything is made. */}}
{{- define "raftsched.check" -}}
{{- $scheduler := .Values.dapr_scheduler -}}
{{- $replicas := int (include "raftsched.replicas" .) -}}
{{- if lt $replicas 1 -}}{{- fail "dapr_scheduler.replicas must be at least 1" -}}{{- end -}}
{{- if not (has .Values.global.ha.podAntiAffinityPolicy (list "preferred" "required")) -}}
{{- fail "global.ha.podAntiAffinityPolicy must be preferred or required" -}}
{{- end -}}
{{- if ne .Values.global.daprControlPlaneOs "linux" -}}{{- fail "there is no image of raftsched for global.daprControlPlaneOs other than linux" -}}{{- end -}}
{{- if $scheduler.etcdEmbed -}}
{{- if and (gt $replicas 3) (not $scheduler.withoutDapr) -}}{{- fail "Sentry signs certificates for three members: dapr_scheduler.replicas must not be more" -}}{{- end -}}
{{- range $name := list "etcdClientEndpoints" "etcdClientUsername" "etcdClientPassword" "etcdClientCredentialsSecret" -}}
{{- if get $scheduler $name -}}{{- fail (printf "cannot use dapr_scheduler.%s with dapr_scheduler.etcdEmbed" $name) -}}{{- end -}}
{{- end -}}
{{- if $scheduler.etcdClientTLS.secretName -}}{{- fail "cannot use dapr_scheduler.etcdClientTLS with dapr_scheduler.etcdEmbed" -}}{{- end -}}
{{- else if not $scheduler.etcdClientEndpoints -}}
{{- fail "must specify dapr_scheduler.etcdClientEndpoints when not using embedded etcd" -}}
{{- end -}}
{{- end -}}

{{- define "raftsched.replicas" -}}
{{- $scheduler := .Values.dapr_scheduler -}}
{{- if not (kindIs "invalid" $scheduler.replicas) -}}{{ int $scheduler.replicas }}
{{- else if or .Values.global.ha.enabled $scheduler.ha -}}3
{{- else -}}1
{{- end -}}
{{- end -}}

{{- define "raftsched.initialCluster" -}}
{{- $context := . -}}
{{- $server := include "raftsched.server" . -}}
{{- $scheme := ternary "http" "https" .Values.dapr_scheduler.withoutDapr -}}
{{- $members := list -}}
{{- range $ordinal := until (int (include "raftsched.replicas" .)) -}}
{{- $name := printf "%s-%d" $server $ordinal -}}
{{- $host := printf "%s.%s.%s.svc%s" $name $server $context.Release.Namespace $context.Values.global.dnsSuffix -}}
{{- $members = append $members (printf "%s=%s://%s:%d" $name $scheme $host (int $context.Values.dapr_scheduler.ports.etcdGRPCPeerPort)) -}}
{{- end -}}
{{- join "," $members -}}
{{- end -}}

{{- define "raftsched.image" -}}
{{- $name := .Values.dapr_scheduler.image.name -}}
{{- $tag := .Values.global.tag | default .Chart.AppVersion -}}
{{- if contains "/" $name -}}{{ $name }}
{{- else if .Values.global.registry -}}{{ printf "%s/%s:%v" .Values.global.registry $name $tag }}
{{- else -}}{{ printf "%s:%v" $name $tag }}
{{- end -}}
{{- end -}}

{{/* Of volumes that a StatefulSet or an earlier one has made: both cannot be changed by an upgrade. */}}
{{- define "raftsched.storageSize" -}}
{{- $size := .Values.dapr_scheduler.cluster.storageSize -}}
{{- $server := include "raftsched.server" . -}}
{{- $volume := include "raftsched.volume" . -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "%s-%s-0" $volume $server) -}}
{{- if $claim -}}{{- $size = $claim.spec.resources.requests.storage -}}{{- end -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace $server -}}
{{- if $set -}}
{{- range $template := $set.spec.volumeClaimTemplates | default list -}}
{{- if eq $template.metadata.name $volume -}}{{- $size = $template.spec.resources.requests.storage -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $size -}}
{{- end -}}

{{- define "raftsched.labels" -}}
{{- $context := . -}}
app: {{ include "raftsched.server" . }}
app.kubernetes.io/name: {{ .Values.dapr_scheduler.nameOverride | default .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Values.dapr_scheduler.fullnameOverride | default .Release.Name | quote }}
app.kubernetes.io/component: {{ .Values.dapr_scheduler.component | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- range $key, $value := .Values.global.k8sLabels }}
{{ $key }}: {{ tpl $value $context | quote }}
{{- end }}
{{- end -}}

{{- define "raftsched.scraping" -}}
{{- if .Values.global.prometheus.enabled -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ include "raftsched.word" .Values.global.prometheus.port | quote }}
prometheus.io/path: "/"
{{- end -}}
{{- end -}}

{{/* The command line, in the order of Dapr's chart. */}}
{{- define "raftsched.args" -}}
{{- $scheduler := .Values.dapr_scheduler -}}
- "--listen-address=0.0.0.0"
- "--id"
- "$(SCHEDULER_ID)"
- "--etcd-initial-cluster"
- {{ include "raftsched.initialCluster" . | quote }}
- "--etcd-embed={{ $scheduler.etcdEmbed }}"
{{- if not $scheduler.etcdEmbed }}
- "--etcd-client-endpoints"
- {{ join "," $scheduler.etcdClientEndpoints | quote }}
{{- with $scheduler.etcdClientUsername }}
- "--etcd-client-username"
- {{ quote . }}
{{- end }}
{{- with $scheduler.etcdClientPassword }}
- "--etcd-client-password"
- {{ quote . }}
{{- end }}
{{- if $scheduler.etcdClientTLS.secretName }}
- "--etcd-client-cacert=/var/run/secrets/raftsched/etcd/ca.crt"
{{- if $scheduler.etcdClientTLS.clientCertificate }}
- "--etcd-client-cert=/var/run/secrets/raftsched/etcd/tls.crt"
- "--etcd-client-key=/var/run/secrets/raftsched/etcd/tls.key"
{{- end }}
{{- end }}
{{- end }}
- "--log-level"
- {{ $scheduler.logLevel | quote }}
{{- if .Values.global.logAsJson }}
- "--log-as-json"
{{- end }}
{{- if .Values.global.prometheus.enabled }}
- "--enable-metrics"
- "--metrics-port"
- {{ include "raftsched.word" .Values.global.prometheus.port | quote }}
{{- else }}
- "--enable-metrics=false"
{{- end }}
- "--etcd-client-port"
- {{ include "raftsched.word" $scheduler.ports.etcdGRPCClientPort | quote }}
- "--etcd-data-dir={{ $scheduler.cluster.etcdDataDirPath }}/{{ .Release.Namespace }}/$(SCHEDULER_ID)"
- "--etcd-space-quota={{ include "raftsched.word" $scheduler.etcdSpaceQuota }}"
- "--etcd-compaction-mode={{ $scheduler.etcdCompactionMode }}"
- "--etcd-compaction-retention={{ include "raftsched.word" $scheduler.etcdCompactionRetention }}"
- "--etcd-snapshot-count={{ include "raftsched.word" $scheduler.etcdSnapshotCount }}"
- "--etcd-max-snapshots={{ include "raftsched.word" $scheduler.etcdMaxSnapshots }}"
- "--etcd-max-wals={{ include "raftsched.word" $scheduler.etcdMaxWals }}"
- "--etcd-backend-batch-limit={{ include "raftsched.word" $scheduler.etcdBackendBatchLimit }}"
- "--etcd-backend-batch-interval={{ $scheduler.etcdBackendBatchInterval }}"
- "--etcd-max-txn-ops={{ include "raftsched.word" $scheduler.etcdMaxTxnOps }}"
- "--etcd-experimental-bootstrap-defrag-threshold-megabytes={{ include "raftsched.word" $scheduler.etcdDefragThresholdMB }}"
- "--etcd-initial-election-tick-advance={{ $scheduler.etcdInitialElectionTickAdvance }}"
- "--etcd-metrics={{ $scheduler.etcdMetrics }}"
{{- if $scheduler.withoutDapr }}
- "--mode=standalone"
- "--form-wait=24h" # a volume may attach late and hold the data
{{- else }}
- "--tls-enabled"
- "--trust-domain={{ .Values.global.mtls.controlPlaneTrustDomain }}"
- "--trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt"
- "--sentry-address={{ .Values.global.mtls.sentryAddress | default (printf "dapr-sentry.%s.svc%s:443" .Release.Namespace .Values.global.dnsSuffix) }}"
- "--mode=kubernetes"
{{- end }}
- "--workers={{ include "raftsched.word" $scheduler.workers }}"
{{- if not (kindIs "invalid" $scheduler.overrideBroadcastHostPort) }}
- "--override-broadcast-host-port={{ $scheduler.overrideBroadcastHostPort }}"
{{- end }}
{{- end -}}
