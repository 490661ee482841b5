{{/* The server's store: variables, volumes, and the checksum that replaces pods. */}}

{{- define "golectra.database.secret" -}}
{{- if eq .Values.database.mode "cnpg" -}}
{{- include "golectra.postgres" . }}-app
{{- else -}}
{{- default (printf "%s-database" (include "golectra.fullname" .)) .Values.database.external.existingSecret.name -}}
{{- end -}}
{{- end -}}

{{- define "golectra.database.caSecret" -}}
{{- if eq .Values.database.mode "cnpg" -}}
{{- include "golectra.postgres" . }}-ca
{{- else if eq .Values.database.mode "external" -}}
{{- .Values.database.external.caSecret.name -}}
{{- end -}}
{{- end -}}

{{- define "golectra.database.env" -}}
{{- $mode := .Values.database.mode -}}
{{- if eq $mode "embedded" }}
- name: FILE_STORAGE_PATH
  value: /data/metrics-db.json
- name: RESTORE
  value: "true"
- name: STORE_INTERVAL
  value: {{ .Values.database.embedded.storeInterval | quote }}
{{- else }}
{{- $entry := "uri" -}}
{{- if eq $mode "external" -}}
{{- $existing := .Values.database.external.existingSecret -}}
{{- $entry = $existing.name | empty | ternary "dsn" $existing.key -}}
{{- end }}
{{ include "golectra.env.secret" (dict "name" "DATABASE_DSN" "secret" (include "golectra.database.secret" .) "key" $entry) }}
{{- if include "golectra.database.caSecret" . }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/golectra/postgres/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "golectra.database.volumeMounts" -}}
{{- if eq .Values.database.mode "embedded" -}}
- name: data
  mountPath: /data
{{- else if include "golectra.database.caSecret" . -}}
- name: postgres-ca
  mountPath: /etc/golectra/postgres
  readOnly: true
{{- end -}}
{{- end -}}

{{/* Only the certificate of the authority's Secret, which may also hold the authority's private key. */}}
{{- define "golectra.database.volumes" -}}
{{- if eq .Values.database.mode "embedded" -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "golectra.server" . }}-data
{{- else if include "golectra.database.caSecret" . -}}
- name: postgres-ca
  secret:
    secretName: {{ include "golectra.database.caSecret" . }}
    items:
      - key: {{ eq .Values.database.mode "cnpg" | ternary "ca.crt" .Values.database.external.caSecret.key }}
        path: ca.crt
{{- end -}}
{{- end -}}

{{/* Changes when the URL changes, in the values or in a Secret that can be read from here. */}}
{{- define "golectra.database.checksum" -}}
{{- $external := .Values.database.external -}}
{{- $value := $external.dsn -}}
{{- if $external.existingSecret.name -}}
{{- $found := lookup "v1" "Secret" .Release.Namespace $external.existingSecret.name | default dict -}}
{{- $value = get ($found.data | default dict) $external.existingSecret.key -}}
{{- end -}}
{{- printf "%s/%s" (include "golectra.database.secret" .) $value | sha256sum | trunc 8 -}}
{{- end -}}

{{/* How the operator creates the Cluster's first instance: as extraSpec.bootstrap says, by default with an empty database. Each method has fields for
     the database and its owner, for which the operator's default is `app`, but a restored golectra database is called `golectra`. An import of a
     whole server must not name one. */}}
{{- define "golectra.postgres.bootstrap" -}}
{{- $bootstrap := .Values.database.cnpg.extraSpec.bootstrap | default (dict "initdb" (dict "dataChecksums" true)) | deepCopy -}}
{{- range $method := list "initdb" "recovery" "pg_basebackup" -}}
{{- if hasKey $bootstrap $method -}}
{{- $given := get $bootstrap $method | default dict -}}
{{- $wholeServer := eq (dig "import" "type" "" $given) "monolith" -}}
{{- if not (or $given.database $given.owner $wholeServer) -}}
{{- $_ := set $bootstrap $method (include "golectra.overlay" (list $given (dict "database" "golectra" "owner" "golectra")) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $bootstrap -}}
{{- end -}}

{{/* PostgreSQL's settings: those of the values, and limits for its write-ahead log (WAL). The operator makes a replication slot for each standby, and without
     a limit PostgreSQL keeps all WAL for a standby that is down until the volume is full. WAL may take 12 % of a volume that it shares with the tables, whose
     history may take 70 %, and half of a volume of its own. On small volumes that is less than what is always kept (the operator's wal_keep_size, 512MB) and
     what is written between two checkpoints (max_wal_size, 1GB), so these are lowered as well. The operator refuses a max_wal_size that is not above
     min_wal_size, 80MB. */}}
{{- define "golectra.postgres.parameters" -}}
{{- $cnpg := .Values.database.cnpg -}}
{{- $volume := dict "size" $cnpg.storage.size "share" 0.12 -}}
{{- if $cnpg.extraSpec.walStorage -}}
{{- $volume = dict "size" (get $cnpg.extraSpec.walStorage "size" | default "0") "share" 0.5 -}}
{{- end -}}
{{- $mebibytes := div (include "golectra.volumeShare" $volume | int64) 1048576 -}}
{{- $own := dict -}}
{{- if and $mebibytes (gt (int $cnpg.instances) 1) -}}
{{- $_ := set $own "max_slot_wal_keep_size" (printf "%dMB" $mebibytes) -}}
{{- end -}}
{{- if and $mebibytes (le $mebibytes 512) -}}
{{- $_ := set $own "wal_keep_size" (printf "%dMB" $mebibytes) -}}
{{- if not (hasKey $cnpg.parameters "min_wal_size") -}}
{{- $_ := set $own "max_wal_size" (printf "%dMB" (max $mebibytes 96)) -}}
{{- end -}}
{{- end -}}
{{- include "golectra.overlay" (list $own $cnpg.parameters) -}}
{{- end -}}

{{/* The common labels for what the operator makes of the Cluster, its pods among them, without those that the operator sets itself: it selects by some of
     them, and it would change others back and forth. */}}
{{- define "golectra.postgres.inheritedLabels" -}}
{{- $labels := dict -}}
{{- range $key, $value := .Values.commonLabels -}}
{{- if not (or (eq $key "role") (regexMatch "^([^/]*[.])?cnpg[.]io/|^app[.]kubernetes[.]io/(name|instance|version|component|managed-by)$" $key)) -}}
{{- $_ := set $labels $key $value -}}
{{- end -}}
{{- end -}}
{{- include "golectra.overlay" (list $labels) -}}
{{- end -}}
