{{- define "golectra.agent.env" -}}
- name: ADDRESS
  value: http://{{ include "golectra.server" . }}:{{ .Values.server.service.port }}
- name: METRICS_ADDRESS
  value: ":9090"
- name: SOURCE
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{ include "golectra.key.env" (dict "root" $ "key" "hash" "name" "KEY") }}
{{- with .Values.signatures }}
{{- if .existingSecret.name }}
- name: KEYS_DIR
  value: /etc/golectra/keys
{{- with .keyId }}
- name: SIGNING_KEY_ID
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.agent.settings }}
{{- range $name, $value := dict
    "LOG_LEVEL" .logLevel
    "LOG_FORMAT" .logFormat
    "REPORT_INTERVAL" .reportInterval
    "POLL_INTERVAL" .pollInterval
    "RATE_LIMIT" .rateLimit
    "QUEUE_BATCHES" .queueBatches
    "QUEUE_BYTES" .queueBytes }}
{{- with include "golectra.env" (dict "name" $name "value" $value) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.agent.spool }}
{{- if .enabled }}
- name: SPOOL_DIR
  value: /var/spool/golectra
- name: SPOOL_MAX_BYTES
  value: {{ printf "%vMiB" .sizeMiB | quote }}
{{- with include "golectra.env" (dict "name" "SPOOL_MAX_AGE" "value" .maxAge) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if or .Values.agent.pods.enabled .Values.agent.scrape.urls }}
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- end }}
{{- with .Values.agent.scrape }}
{{- with .urls }}
- name: SCRAPE
  value: {{ join " " . | quote }}
{{- end }}
{{- if .pods }}
- name: SCRAPE_PODS
  value: "true"
{{- end }}
{{- if .caConfigMap.name }}
- name: SCRAPE_CA_FILE
  value: /etc/golectra/scrape-ca/ca.crt
{{- end }}
{{- if .token.existingSecret.name }}
- name: SCRAPE_TOKEN_FILE
  value: /etc/golectra/scrape-token/token
{{- end }}
{{- range $name, $value := dict
    "SCRAPE_METRICS_INCLUDE" .metricsInclude
    "SCRAPE_METRICS_EXCLUDE" .metricsExclude
    "SCRAPE_INTERVAL" .interval
    "SCRAPE_MAX_SERIES" .maxSeries }}
{{- with include "golectra.env" (dict "name" $name "value" $value) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.agent.pods.enabled }}
- name: KUBELET_URL
  value: https://$(HOST_IP):{{ .Values.agent.kubelet.port }}
- name: KUBELET_TLS
  value: {{ .Values.agent.kubelet.tls }}
{{- with .Values.agent.pods }}
{{- if .details }}
- name: PODS_DETAILS
  value: "true"
{{- end }}
{{- with .namespaces }}
- name: PODS_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .excludeNamespaces }}
- name: PODS_EXCLUDE_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with include "golectra.env" (dict "name" "PODS_MAX_SERIES" "value" .maxSeries) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name := list "proc" "root" }}
{{- if get $.Values.agent.hostMounts $name }}
- name: HOST_{{ upper $name }}
  value: /host/{{ $name }}
{{- end }}
{{- end }}
{{- if .Values.agent.textfile.hostPath }}
- name: TEXTFILE_DIRS
  value: /host/textfile
{{- end }}
{{- end -}}
