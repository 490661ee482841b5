{{/* Names. */}}

{{- define "golectra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: the longest suffix is `-server-metrics`, and the operator adds its own to PostgreSQL's pods and Services. */}}
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
{{/* A name for objects that belong to no namespace: releases of one name may be installed in several. */}}
{{- define "golectra.agent.clusterRole" -}}{{ include "golectra.agent" . }}-{{ .Release.Namespace }}{{- end -}}

{{- define "golectra.auditSink" -}}{{ include "golectra.fullname" . }}-audit-sink{{- end -}}
{{- define "golectra.postgres" -}}{{ include "golectra.fullname" . }}-postgres{{- end -}}

{{/* Takes a list of maps and prints their entries. Where maps have the same key, the last one counts: a key that stands twice in YAML is an
     error to kustomize and other strict readers. */}}
{{- define "golectra.overlay" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- end -}}
{{- with $all }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Labels. All of these take (dict "root" $ "component" "server"). */}}

{{/* A selector cannot be changed once it is installed, so nothing here depends on a version or on the user's labels. */}}
{{- define "golectra.selectorLabels" -}}
{{- toYaml (dict
    "app.kubernetes.io/name" (include "golectra.name" .root)
    "app.kubernetes.io/instance" .root.Release.Name
    "app.kubernetes.io/component" .component) -}}
{{- end -}}

{{/* The labels of an object. `labels` are the user's for this kind of object. With `selected`, something selects the object by its labels, and
     those that selectors use cannot be replaced. */}}
{{- define "golectra.labels" -}}
{{- $selector := include "golectra.selectorLabels" . | fromYaml -}}
{{- $own := dict
    "app.kubernetes.io/part-of" "golectra"
    "app.kubernetes.io/version" .root.Chart.AppVersion
    "app.kubernetes.io/managed-by" .root.Release.Service
    "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) -}}
{{- $fixed := dict -}}
{{- if .selected -}}{{- $fixed = $selector -}}{{- end -}}
{{- include "golectra.overlay" (list $own $selector .root.Values.commonLabels (.labels | default dict) $fixed) -}}
{{- end -}}

{{/* The labels of a workload's pods, with the component's `labels` from the values. They do not name the chart's version, which would restart
     every pod on every upgrade. */}}
{{- define "golectra.podLabels" -}}
{{- $selector := include "golectra.selectorLabels" . | fromYaml -}}
{{- include "golectra.overlay" (list (dict "app.kubernetes.io/part-of" "golectra") .root.Values.commonLabels .labels $selector) -}}
{{- end -}}

{{/* Images. Takes (dict "root" $ "image" .Values.server.image). */}}
{{- define "golectra.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What all pods have in common: PodSecurity `restricted`, no token unless a component mounts one, no variables for the cluster's Services. An id can be
     unset by an empty string too, because Helm ignores a null that stands in a parent chart's values.yaml. */}}
{{- define "golectra.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- $context := dict "runAsNonRoot" true "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") }}
  {{- range $field, $value := .Values.podSecurityContext }}
  {{- if ne (toString $value) "" }}{{ $_ := set $context $field $value }}{{ end }}
  {{- end }}
  {{- toYaml $context | nindent 2 }}
{{- end -}}

{{- define "golectra.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where a pod runs. Takes a component's values. The images are for Linux only, so nodes with another system are left out whatever the values say
     of the other labels. */}}
{{- define "golectra.scheduling" -}}
nodeSelector:
  {{- include "golectra.overlay" (list (dict "kubernetes.io/os" "linux") .nodeSelector) | nindent 2 }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* One environment variable, left out when it is empty so that the program's default applies. Takes (dict "name" "MAX_SERIES" "value" 5).
     YAML may have read a whole number as a float, which would print as 1e+06. */}}
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

{{/* A container's variables: the chart's, with those of the values in the places of the chart's of the same name, then the other ones of the values.
     Kubernetes puts `$(NAME)` in only if NAME stands before, so a variable that another one uses is moved before it.
     Takes (dict "own" YAML "extra" .Values.server.extraEnv). */}}
{{- define "golectra.env.all" -}}
{{- $open := dict -}}
{{- $names := list -}}
{{- range concat (fromYamlArray .own) .extra -}}
{{- $names = append $names .name -}}
{{- $_ := set $open .name . -}}
{{- end -}}
{{- $placed := dict "list" list -}}
{{- include "golectra.env.place" (dict "names" $names "open" $open "placed" $placed) -}}
{{- toYaml $placed.list -}}
{{- end -}}

{{/* Moves the variables of these names from `open` to the end of `placed`, each behind those that it uses. */}}
{{- define "golectra.env.place" -}}
{{- $open := .open -}}
{{- $placed := .placed -}}
{{- range $name := .names -}}
{{- if hasKey $open $name -}}
{{- $variable := get $open $name -}}
{{- $_ := unset $open $name -}}
{{- $used := list -}}
{{- range regexFindAll "\\$\\([^)]+\\)" (get $variable "value" | toString) -1 -}}
{{- $used = append $used (. | trimPrefix "$(" | trimSuffix ")") -}}
{{- end -}}
{{- include "golectra.env.place" (dict "names" $used "open" $open "placed" $placed) -}}
{{- $_ := set $placed "list" (append $placed.list $variable) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A duration for Prometheus, to which a number without a unit is no duration: it gets seconds. */}}
{{- define "golectra.prometheusDuration" -}}
{{- $text := . -}}
{{- if not (kindIs "string" .) -}}{{- $text = . | int64 | toString -}}{{- end -}}
{{- $text }}{{ if regexMatch "^[0-9]+$" $text }}s{{ end -}}
{{- end -}}

{{/* Whether the cluster knows a kind. A list of API versions given by hand may name only the group's version. */}}
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

{{/* The bytes of a size, written as Kubernetes does (`5Gi`, `1.5T`, `5000000000`) or as the programs' settings do (`16MiB`, `1GB`). */}}
{{- define "golectra.bytes" -}}
{{- $size := toString . -}}
{{- $suffix := regexFind "([kKMGTPE]i?)?B?$" $size -}}
{{- $units := dict "" 1.0 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0
    "k" 1e3 "K" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- mulf (trimSuffix $suffix $size | float64) (get $units (trimSuffix "B" $suffix)) | floor | int64 -}}
{{- end -}}

{{/* The bytes of a share of a volume. Takes (dict "size" "8Gi" "share" 0.7). */}}
{{- define "golectra.volumeShare" -}}
{{- mulf (include "golectra.bytes" .size | float64) .share | floor | int64 -}}
{{- end -}}

{{/* Filesystems keep a part of a volume for themselves. */}}
{{- define "golectra.auditSink.retainBytes" -}}
{{- include "golectra.volumeShare" (dict "size" .Values.auditSink.storage.size "share" 0.8) -}}
{{- end -}}
