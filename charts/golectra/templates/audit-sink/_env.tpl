{{- define "golectra.auditSink.env" -}}
- name: ADDRESS
  value: ":8090"
- name: METRICS_ADDRESS
  value: ":9090"
- name: DATA_DIR
  value: /data
{{ include "golectra.key.env" (dict "root" $ "key" "audit" "name" "AUDIT_KEY") }}
{{- $share := include "golectra.auditSink.retainBytes" . }}
{{- with .Values.auditSink.settings }}
{{- range $name, $value := dict
    "LOG_LEVEL" .logLevel
    "LOG_FORMAT" .logFormat
    "ROTATE_BYTES" .rotateBytes
    "RETAIN_FILES" .retainFiles
    "RETAIN_BYTES" (.retainBytes | default $share) }}
{{- with include "golectra.env" (dict "name" $name "value" $value) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
