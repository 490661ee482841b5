{{/* Values that contradict each other or the cluster, which the schema cannot express. Each has one sentence, which says what to do. */}}
{{- define "golectra.validate" -}}
{{- include "golectra.init" . -}}
{{- $fullname := include "golectra.fullname" . -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $fullname) -}}
{{- fail (printf "names would begin with %q, which Kubernetes refuses for Services: a letter has to be first, then lower-case letters, digits and dashes. Name the release differently, or set fullnameOverride." $fullname) -}}
{{- end -}}
{{- $database := .Values.database -}}
{{- $external := $database.external -}}
{{- if eq $database.mode "cnpg" -}}
{{- if not (.Capabilities.APIVersions.Has "postgresql.cnpg.io/v1") -}}
{{- fail "database.mode=cnpg needs the CloudNativePG operator, which is not installed here: install it as https://cloudnative-pg.io says, or choose database.mode=external or database.mode=embedded; when rendering without a cluster, add --api-versions postgresql.cnpg.io/v1." -}}
{{- end -}}
{{- with $database.cnpg -}}
{{- if and .synchronous.enabled (gt (int .instances) 1) (ge (int .synchronous.number) (int .instances)) -}}
{{- fail (printf "database.cnpg.synchronous.number=%d standbys cannot be had from database.cnpg.instances=%d: choose a number below the instances." (int .synchronous.number) (int .instances)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Older charts accepted what does not fit, and an upgrade with their values must not fail: then the notes say it. */ -}}
{{- with include "golectra.server.historyTooLarge" . -}}
{{- if not $.Release.IsUpgrade -}}
{{- fail . -}}
{{- end -}}
{{- end -}}
{{- if eq $database.mode "external" -}}
{{- if and $external.dsn $external.existingSecret.name -}}
{{- fail "database.external.dsn and database.external.existingSecret.name are both set: keep one of them." -}}
{{- end -}}
{{- if not (or $external.dsn $external.existingSecret.name) -}}
{{- fail "database.mode=external needs to know your PostgreSQL: set database.external.dsn to its URL, or database.external.existingSecret.name to a Secret that holds the URL." -}}
{{- end -}}
{{- else if or $external.dsn $external.existingSecret.name -}}
{{- fail (printf "database.external is set but database.mode is %s, so your PostgreSQL would not be used: set database.mode=external, or leave database.external empty." $database.mode) -}}
{{- end -}}
{{- if and (eq $database.mode "embedded") .Values.server.autoscaling.enabled -}}
{{- fail "database.mode=embedded keeps the metrics in one server's memory and cannot be scaled: set server.autoscaling.enabled=false, or choose database.mode=cnpg or database.mode=external." -}}
{{- end -}}
{{- with .Values.server.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail "server.autoscaling.minReplicas is above server.autoscaling.maxReplicas: choose a smaller minimum." -}}
{{- end -}}
{{- end -}}
{{- range $name, $key := .Values.keys -}}
{{- if and $key.value $key.existingSecret.name -}}
{{- fail (printf "keys.%s.value and keys.%s.existingSecret.name are both set: keep one of them." $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.agent.scrape.pods (not .Values.agent.pods.enabled) -}}
{{- fail "agent.scrape.pods needs the kubelet's list of pods: set agent.pods.enabled=true, or agent.scrape.pods=false." -}}
{{- end -}}
{{- with .Values.signatures -}}
{{- if and .keyId (not .existingSecret.name) -}}
{{- fail "signatures.keyId names a key of a Secret: set signatures.existingSecret.name to that Secret, or leave signatures.keyId empty." -}}
{{- end -}}
{{- end -}}
{{- with .Values.access -}}
{{- if and .tokens $.Values.server.apiTokens.existingSecret.name -}}
{{- fail "access.tokens and server.apiTokens.existingSecret.name are both set: keep one of them." -}}
{{- end -}}
{{- if and .proxy.header (not .proxy.trustedProxies) (not $.Values.server.settings.trustedProxies) -}}
{{- fail "access.proxy.header needs to know who may send it: set access.proxy.trustedProxies to the addresses of the proxy that signs people in." -}}
{{- end -}}
{{- if and (include "golectra.isPublic" $) (not (include "golectra.hasAccess" $)) (not .anonymous) -}}
{{- fail "server.ingress, server.httpRoute or server.service.type would let everyone read what golectra stores: set access.tokens=true, server.apiTokens.existingSecret.name or access.proxy.header, or access.anonymous=true if that is meant." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.server.ingress.enabled (not .Values.server.ingress.hosts) -}}
{{- fail "server.ingress.enabled needs at least one name in server.ingress.hosts." -}}
{{- end -}}
{{- if and .Values.server.httpRoute.enabled (not .Values.server.httpRoute.parentRefs) -}}
{{- fail "server.httpRoute.enabled needs at least one Gateway in server.httpRoute.parentRefs." -}}
{{- end -}}
{{- end -}}
