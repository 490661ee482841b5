{{/* Panels and pages: a ConfigMap, which servers read again when it changes. */}}

{{- define "golectra.panels.volumeMounts" -}}
{{- if .Values.panels -}}
- name: panels
  mountPath: /etc/golectra/panels
  readOnly: true
{{- end }}
{{- end -}}

{{- define "golectra.panels.volumes" -}}
{{- if .Values.panels -}}
- name: panels
  configMap:
    name: {{ include "golectra.server" . }}-panels
{{- end }}
{{- end -}}
