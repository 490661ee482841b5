{{/* Names. */}}

{{- define "golectra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The longest suffix is `-server-metrics`, and PostgreSQL's pods and Services add their own. */}}
{{- define "golectra.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "golectra.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "golectra.server" -}}{{ include "golectra.fullname" . }}-server{{- end -}}
{{- define "golectra.agent" -}}{{ include "golectra.fullname" . }}-agent{{- end -}}
{{- define "golectra.auditSink" -}}{{ include "golectra.fullname" . }}-audit-sink{{- end -}}
{{- define "golectra.postgres" -}}{{ include "golectra.fullname" . }}-postgres{{- end -}}

{{/* Labels. Takes (dict "root" $ "component" "server"). */}}

{{/* Selectors can't be changed once installed: nothing here may depend on a version. */}}
{{- define "golectra.selectorLabels" -}}
app.kubernetes.io/name: {{ include "golectra.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "golectra.labels" -}}
{{ include "golectra.selectorLabels" . }}
app.kubernetes.io/part-of: golectra
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A pod's labels say nothing of the chart's version, or every upgrade would restart what it does not change. Takes what the others take and
     the component's `labels`. */}}
{{- define "golectra.podLabels" -}}
{{- with merge (dict) (.labels | default dict) .root.Values.commonLabels }}
{{- toYaml . }}
{{ end }}
{{- include "golectra.selectorLabels" . }}
app.kubernetes.io/part-of: golectra
{{- end -}}

{{/* Images. Takes (dict "root" $ "image" .Values.server.image). */}}
{{- define "golectra.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What every pod of golectra has in common: PodSecurity `restricted`, no token, nothing of the cluster's services in its environment. */}}
{{- define "golectra.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "golectra.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where a pod runs. Takes a component's values. */}}
{{- define "golectra.scheduling" -}}
{{- $set := dict -}}
{{- range $field := list "nodeSelector" "affinity" "tolerations" "priorityClassName" -}}
{{- with get $ $field -}}
{{- $_ := set $set $field . -}}
{{- end -}}
{{- end -}}
{{- with $set -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* One environment variable, left out when empty so that the program's default holds. Takes (dict "name" "MAX_SERIES" "value" 5).
     A whole number that YAML read as a float must not come out as 1e+06. */}}
{{- define "golectra.env" -}}
{{- $text := .value -}}
{{- if not (kindIs "string" .value) -}}{{- $text = .value | int64 | toString -}}{{- end -}}
{{- if $text -}}
- name: {{ .name }}
  value: {{ $text | quote }}
{{- end -}}
{{- end -}}

{{- define "golectra.env.secret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{/* Who may reach a port: a `from` list, where an empty one means everybody. */}}
{{- define "golectra.serverClients" -}}
{{- $open := or .Values.server.ingress.enabled .Values.server.httpRoute.enabled (ne .Values.server.service.type "ClusterIP") -}}
{{- if and $open (not .Values.networkPolicy.clients) -}}
everybody
{{- end -}}
{{- end -}}

{{/* Whether the cluster knows a kind. A list of API versions that was given by hand may name the group's version alone. */}}
{{- define "golectra.hasKind" -}}
{{- $prefix := printf "%s/" .groupVersion -}}
{{- $kinds := false -}}
{{- range .root.Capabilities.APIVersions -}}
{{- if hasPrefix $prefix . -}}{{- $kinds = true -}}{{- end -}}
{{- end -}}
{{- if .root.Capabilities.APIVersions.Has (printf "%s/%s" .groupVersion .kind) -}}
true
{{- else if and (not $kinds) (.root.Capabilities.APIVersions.Has .groupVersion) -}}
true
{{- end -}}
{{- end -}}

{{- define "golectra.dnsEgress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/* The bytes of 80 % of the audit sink's volume: filesystems keep a part for themselves. Sizes are written as `5Gi`, `1.5T` or `5000000000`. */}}
{{- define "golectra.auditSink.retainBytes" -}}
{{- $size := .Values.auditSink.storage.size | toString -}}
{{- $units := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0
    "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $unit := regexFind "([KMGTPE]i|[kMGTPE])$" $size -}}
{{- mulf (trimSuffix $unit $size | float64) (get $units $unit | default 1.0) 0.8 | floor | int64 -}}
{{- end -}}
