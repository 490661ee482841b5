{{/* The receiver of audit events, or nothing. */}}
{{- define "golectra.auditUrl" -}}
{{- if .Values.server.audit.url -}}
{{- .Values.server.audit.url -}}
{{- else if .Values.auditSink.enabled -}}
{{- printf "http://%s:8090/" (include "golectra.auditSink" .) -}}
{{- end -}}
{{- end -}}

{{/* Annotations that replace the pods when what they read only at start has changed. */}}
{{- define "golectra.server.checksums" -}}
checksum/hash-key: {{ include "golectra.key.checksum" (dict "root" $ "key" "hash") | quote }}
{{- if include "golectra.auditUrl" . }}
checksum/audit-key: {{ include "golectra.key.checksum" (dict "root" $ "key" "audit") | quote }}
{{- end }}
{{- if eq .Values.database.mode "external" }}
checksum/database: {{ include "golectra.database.checksum" . | quote }}
{{- end }}
{{- end -}}

{{/* With preStop, the pod has left its Service before SIGTERM. SHUTDOWN_LINGER then gives each kept connection one more answer, with
     `Connection: close`, so that its client goes to another server. */}}
{{- define "golectra.server.env" -}}
- name: ADDRESS
  value: ":8080"
- name: METRICS_ADDRESS
  value: ":9090"
{{- if ne .Values.database.mode "embedded" }}
- name: SHUTDOWN_LINGER
  value: 3s
{{- end }}
{{ include "golectra.key.env" (dict "root" $ "key" "hash" "name" "KEY") }}
{{- if ne .Values.signatures.mode "compat" }}
- name: SIGNATURES
  value: {{ .Values.signatures.mode }}
{{- end }}
{{- if .Values.signatures.existingSecret.name }}
- name: KEYS_DIR
  value: /etc/golectra/keys
{{- end }}
{{- if include "golectra.apiTokens.secret" . }}
- name: API_TOKENS_FILE
  value: /etc/golectra/api-tokens/tokens
{{- end }}
{{- with include "golectra.alerts.env" . | trim }}
{{ . }}
{{- end }}
{{- if .Values.panels }}
- name: PANELS_DIR
  value: /etc/golectra/panels
{{- end }}
{{ include "golectra.database.env" . | trim }}
{{- with include "golectra.auditUrl" . }}
- name: AUDIT_URL
  value: {{ . | quote }}
{{ include "golectra.key.env" (dict "root" $ "key" "audit" "name" "AUDIT_KEY") }}
{{- end }}
{{- with .Values.access.proxy }}
{{- if .header }}
- name: AUTH_HEADER
  value: {{ .header }}
- name: AUTH_HEADER_ROLE
  value: {{ .role }}
{{- end }}
{{- end }}
{{- $proxies := list .Values.server.settings.trustedProxies .Values.access.proxy.trustedProxies | compact | uniq | join "," }}
{{- $history := include "golectra.server.historyMaxBytes" . }}
{{- with .Values.server.settings }}
{{- range $name, $value := dict
    "LOG_LEVEL" .logLevel
    "LOG_FORMAT" .logFormat
    "DEDUP_WINDOW" .dedupWindow
    "RETENTION_RAW" .retentionRaw
    "RETENTION_5M" .retention5m
    "RETENTION_1H" .retention1h
    "HISTORY_MAX_BYTES" (.historyMaxBytes | default $history)
    "SEAL_AFTER" .sealAfter
    "SERIES_EXPIRY" .seriesExpiry
    "SOURCE_EXPIRY" .sourceExpiry
    "MAX_SERIES" .maxSeries
    "MAX_SERIES_PER_SOURCE" .maxSeriesPerSource
    "MAX_BODY_BYTES" .maxBodyBytes
    "MAX_INFLIGHT_BYTES" .maxInflightBytes
    "MAX_BATCH_ITEMS" .maxBatchItems
    "MAX_CONNECTIONS" .maxConnections
    "DATABASE_CONNECTIONS" .databaseConnections
    "DATABASE_QUERY_CONNECTIONS" .databaseQueryConnections
    "QUERY_CONCURRENCY" .queryConcurrency
    "QUERY_TIMEOUT" .queryTimeout
    "QUERY_MAX_SERIES" .queryMaxSeries
    "QUERY_MAX_BYTES" .queryMaxBytes
    "INDEX_CACHE_BYTES" .indexCacheBytes
    "SAMPLE_CACHE_BYTES" .sampleCacheBytes
    "QUERY_LOG_AFTER" .queryLogAfter
    "AUDIT_DATABASE_MAX_BYTES" .auditDatabaseMaxBytes
    "HEADER_TIMEOUT" .headerTimeout
    "BODY_TIMEOUT" .bodyTimeout
    "IDLE_TIMEOUT" .idleTimeout
    "TRUSTED_PROXIES" $proxies
    "OTEL_EXPORTER_OTLP_ENDPOINT" .otlpEndpoint }}
{{- with include "golectra.env" (dict "name" $name "value" $value) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
