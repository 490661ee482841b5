{{/* Completes .Values: a value that is missing or null gets its default. Every template begins with this, because either can happen: Helm removes
     null values, and `helm upgrade --reuse-values` takes the values of the installed chart in place of values.yaml, which lack those that are new.
     Templates cannot read values.yaml; files/default-values.yaml is a copy of its data. */}}
{{- define "golectra.init" -}}
{{- if not (hasKey . "GolectraState") -}}
{{- $values := deepCopy .Values -}}
{{- include "golectra.values.complete" (list $values (.Files.Get "files/default-values.yaml" | fromYaml)) -}}
{{- $_ := set . "Values" $values -}}
{{- $_ := set . "GolectraState" dict -}}
{{- end -}}
{{- end -}}

{{/* Takes (list VALUES DEFAULTS) and adds to VALUES what they lack. Maps whose entries the user chooses are one value: Helm has merged them already,
     and an entry that is missing was removed on purpose. */}}
{{- define "golectra.values.complete" -}}
{{- $values := index . 0 -}}
{{- $userMaps := list "affinity" "annotations" "backup" "commonLabels" "extraSpec" "labels" "nodeSelector" "panels" "parameters" "podAnnotations" "podLabels" "podSecurityContext" "resources" "ruleFiles" -}}
{{- range $key, $default := index . 1 -}}
{{- $value := index $values $key -}}
{{- $otherKind := and (kindIs "map" $default) (not (kindIs "map" $value)) -}}
{{- if or (kindIs "invalid" $value) $otherKind -}}
{{- $_ := set $values $key $default -}}
{{- else if and (kindIs "map" $default) (has $key $userMaps) -}}
{{- range $name, $entry := $value -}}
{{- if kindIs "invalid" $entry -}}{{- $_ := unset $value $name -}}{{- end -}}
{{- end -}}
{{- else if kindIs "map" $default -}}
{{- include "golectra.values.complete" (list $value $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Values that earlier charts had and that do nothing any more, each with what to set instead. NOTES.txt names those that are set. */}}
{{- define "golectra.values.removed" -}}
server.settings.historyRetention: server.settings.dedupWindow and server.settings.retentionRaw
{{- end -}}
