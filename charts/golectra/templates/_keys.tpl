{{/* Keys. Each comes from an existing Secret, from the values, or is generated at the first install. The values have them under `keys.hash` and
     `keys.audit`; everything below takes (dict "root" $ "key" "hash"). */}}

{{- define "golectra.key.secret" -}}
{{- $key := get .root.Values.keys .key -}}
{{- default (printf "%s-%s-key" (include "golectra.fullname" .root) .key) $key.existingSecret.name -}}
{{- end -}}

{{- define "golectra.key.entry" -}}
{{- $key := get .root.Values.keys .key -}}
{{- if $key.existingSecret.name -}}{{ $key.existingSecret.key }}{{- else -}}key{{- end -}}
{{- end -}}

{{/* The key, or nothing when it is in a Secret that cannot be read from here. A generated key must be the same wherever a rendering uses it, so it
     is kept in .GolectraState, which the chart's templates share. */}}
{{- define "golectra.key.value" -}}
{{- $key := get .root.Values.keys .key -}}
{{- if $key.value -}}
{{- $key.value -}}
{{- else if hasKey .root.GolectraState .key -}}
{{- get .root.GolectraState .key -}}
{{- else -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace (include "golectra.key.secret" .) | default dict -}}
{{- $value := get ($found.data | default dict) (include "golectra.key.entry" .) | b64dec -}}
{{- if and (not $value) (not $key.existingSecret.name) -}}
{{- $value = randAlphaNum 48 -}}
{{- end -}}
{{- $_ := set .root.GolectraState .key $value -}}
{{- $value -}}
{{- end -}}
{{- end -}}

{{/* Changes when the key changes, so that pods with the old key are replaced. Cut to 32 bits, so that many keys fit and a weak one cannot be found
     from it. */}}
{{- define "golectra.key.checksum" -}}
{{- printf "%s/%s/%s" .key (include "golectra.key.secret" .) (include "golectra.key.value" .) | sha256sum | trunc 8 -}}
{{- end -}}

{{/* Further signing keys, in a mounted Secret: the programs read its changes without a restart. */}}
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

{{/* API tokens, likewise: of an existing Secret, or of one that is generated. */}}
{{- define "golectra.apiTokens.secret" -}}
{{- if .Values.access.tokens -}}
{{ include "golectra.fullname" . }}-api-tokens
{{- else -}}
{{ .Values.server.apiTokens.existingSecret.name }}
{{- end -}}
{{- end -}}

{{/* Whether others than pods of the cluster may reach the server. */}}
{{- define "golectra.isPublic" -}}
{{- if or .Values.server.ingress.enabled .Values.server.httpRoute.enabled (ne .Values.server.service.type "ClusterIP") -}}
true
{{- end -}}
{{- end -}}

{{/* Whether the server asks who reads. */}}
{{- define "golectra.hasAccess" -}}
{{- if or (include "golectra.apiTokens.secret" .) .Values.access.proxy.header -}}
true
{{- end -}}
{{- end -}}

{{- define "golectra.apiTokens.volumeMounts" -}}
{{- if include "golectra.apiTokens.secret" . -}}
- name: api-tokens
  mountPath: /etc/golectra/api-tokens
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "golectra.apiTokens.volumes" -}}
{{- with include "golectra.apiTokens.secret" . -}}
- name: api-tokens
  secret:
    secretName: {{ . }}
    items:
      - key: {{ ternary "tokens" $.Values.server.apiTokens.existingSecret.key $.Values.access.tokens }}
        path: tokens
{{- end -}}
{{- end -}}

{{- define "golectra.key.env" -}}
{{- include "golectra.env.secret" (dict "name" .name "secret" (include "golectra.key.secret" .) "key" (include "golectra.key.entry" .)) -}}
{{- end -}}
