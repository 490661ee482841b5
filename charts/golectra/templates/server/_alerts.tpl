{{/* Rules and receivers of alerts. Both are ConfigMaps, which servers read again when they change; what is secret in receivers is in Secrets. */}}

{{- define "golectra.alerts.env" -}}
{{- if .Values.alerts.ruleFiles }}
- name: RULES_DIR
  value: /etc/golectra/rules
{{- end }}
{{- if .Values.alerts.receivers }}
- name: RECEIVERS_FILE
  value: /etc/golectra/receivers/receivers.yaml
{{- end }}
{{- with .Values.alerts.externalUrl }}
- name: EXTERNAL_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.alerts.heartbeat.existingSecret }}
{{- if .name }}
- name: HEARTBEAT_URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.alerts.disabled }}
- name: BUILT_IN_RULES_DISABLED
  value: {{ join "," . | quote }}
{{- end }}
{{- with include "golectra.env" (dict "name" "EVALUATION_INTERVAL" "value" .Values.alerts.evaluationInterval) }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "golectra.alerts.volumeMounts" -}}
{{- if .Values.alerts.ruleFiles }}
- name: rules
  mountPath: /etc/golectra/rules
  readOnly: true
{{- end }}
{{- if .Values.alerts.receivers }}
- name: receivers
  mountPath: /etc/golectra/receivers
  readOnly: true
{{- end }}
{{- range .Values.alerts.secrets }}
- name: receiver-{{ . }}
  mountPath: /etc/golectra/receiver-secrets/{{ . }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "golectra.alerts.volumes" -}}
{{- if .Values.alerts.ruleFiles }}
- name: rules
  configMap:
    name: {{ include "golectra.server" . }}-rules
{{- end }}
{{- if .Values.alerts.receivers }}
- name: receivers
  configMap:
    name: {{ include "golectra.server" . }}-receivers
{{- end }}
{{- range .Values.alerts.secrets }}
- name: receiver-{{ . }}
  secret:
    secretName: {{ . }}
{{- end }}
{{- end -}}
