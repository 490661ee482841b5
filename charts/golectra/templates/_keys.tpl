{{/* The signing keys. Each comes from a Secret of the user's, from the values, or is generated once; `keys` holds both under `hash` and `audit`,
     and everything below takes (dict "root" $ "key" "hash"). */}}

{{- define "golectra.key.secret" -}}
{{- $key := get .root.Values.keys .key -}}
{{- default (printf "%s-%s-key" (include "golectra.fullname" .root) .key) $key.existingSecret.name -}}
{{- end -}}

{{- define "golectra.key.entry" -}}
{{- $key := get .root.Values.keys .key -}}
{{- if $key.existingSecret.name -}}{{ $key.existingSecret.key }}{{- else -}}key{{- end -}}
{{- end -}}

{{/* The key itself, or nothing when it stands in a Secret that can't be read from here. A generated key has to be the same wherever one
     rendering uses it, so the first one made is kept in .Release, which all templates share and nothing stores. */}}
{{- define "golectra.key.value" -}}
{{- $key := get .root.Values.keys .key -}}
{{- $slot := printf "golectra-key-%s" .key -}}
{{- if $key.value -}}
{{- $key.value -}}
{{- else if hasKey .root.Release $slot -}}
{{- get .root.Release $slot -}}
{{- else -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace (include "golectra.key.secret" .) | default dict -}}
{{- $value := get ($found.data | default dict) (include "golectra.key.entry" .) | b64dec -}}
{{- if and (not $value) (not $key.existingSecret.name) -}}
{{- $value = randAlphaNum 48 -}}
{{- end -}}
{{- $_ := set .root.Release $slot $value -}}
{{- $value -}}
{{- end -}}
{{- end -}}

{{/* Changes when the key does, so that the pods that read it are replaced. Cut short so that it tells nothing about a weak key. */}}
{{- define "golectra.key.checksum" -}}
{{- printf "%s/%s/%s" .key (include "golectra.key.secret" .) (include "golectra.key.value" .) | sha256sum | trunc 8 -}}
{{- end -}}

{{/* Further signing keys, from a Secret that is mounted so that its changes are seen. */}}
{{- define "golectra.signing.volumeMounts" -}}
{{- if .Values.signatures.existingSecret.name -}}
- name: signing-keys
  mountPath: /etc/golectra/keys
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "golectra.signing.volumes" -}}
{{- with .Values.signatures.existingSecret.name -}}
- name: signing-keys
  secret:
    secretName: {{ . }}
{{- end -}}
{{- end -}}

{{- define "golectra.key.env" -}}
{{- include "golectra.env.secret" (dict "name" .name "secret" (include "golectra.key.secret" .) "key" (include "golectra.key.entry" .)) -}}
{{- end -}}
