{{/* Rules of network policies. In a policy a rule whose list of peers is empty allows everybody, while an empty list in the values means nobody:
     then there is no rule. */}}

{{/* Peers of the values that may reach a port. Takes (dict "port" "metrics" "peers" .Values.networkPolicy.scrapers). */}}
{{- define "golectra.ingressFrom" -}}
{{- with .peers -}}
- ports:
    - port: {{ $.port }}
  from:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Not empty when the server's port is open to everybody: somebody outside the cluster is meant to reach it and `clients` does not say who. */}}
{{- define "golectra.serverOpen" -}}
{{- if and (include "golectra.isPublic" .) (not .Values.networkPolicy.clients) -}}
true
{{- end -}}
{{- end -}}

{{- define "golectra.dnsEgress" -}}
{{- with .Values.networkPolicy.dnsPorts -}}
- ports:
    {{- range . }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end -}}
{{- end -}}

{{/* The same holds for rules that the values pass on: `to` or `ports` given as an empty list matches nothing. Takes a list of rules; each begins with a new
     line. */}}
{{- define "golectra.extraEgress" -}}
{{- range . -}}
{{- $nowhere := and (hasKey . "to") (not .to) -}}
{{- $noPort := and (hasKey . "ports") (not .ports) -}}
{{- if not (or $nowhere $noPort) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The port that the URL of a PostgreSQL names, in its parameters or behind the host, or nothing. */}}
{{- define "golectra.dsnPort" -}}
{{- $parameter := regexFind "[?&]port=[0-9]+" . | regexFind "[0-9]+$" -}}
{{- $parameter | default (regexFind "^[a-z]+://[^/?#]+" . | regexFind ":[0-9]+$" | trimPrefix ":") -}}
{{- end -}}

{{/* Where the server connects to. A policy applies to the port of a pod, which may differ from the port of the URL where that names a Service: both are allowed. */}}
{{- define "golectra.serverEgress" -}}
{{- $databasePorts := list (int .Values.networkPolicy.externalDatabase.port) -}}
{{- with include "golectra.dsnPort" .Values.database.external.dsn -}}
{{- $databasePorts = append $databasePorts (int .) -}}
{{- end -}}
{{- include "golectra.dnsEgress" . }}
{{- if eq .Values.database.mode "cnpg" }}
- to:
    - podSelector:
        matchLabels:
          cnpg.io/cluster: {{ include "golectra.postgres" . }}
  ports:
    - port: 5432
{{- else if eq .Values.database.mode "external" }}
- ports:
    {{- range uniq $databasePorts }}
    - port: {{ . }}
    {{- end }}
  {{- with .Values.networkPolicy.externalDatabase.cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if .Values.auditSink.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "golectra.selectorLabels" (dict "root" $ "component" "audit-sink") | nindent 10 }}
  ports:
    - port: 8090
{{- end }}
{{- include "golectra.extraEgress" (concat .Values.alerts.egress .Values.networkPolicy.extraEgress) }}
{{- end -}}

{{/* The ports of URLs to scrape, as a JSON array of numbers in order, each once. Takes agent.scrape.urls. */}}
{{- define "golectra.scrapePorts" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $url := regexReplaceAll "^[A-Za-z0-9._/-]+=" . "" -}}
{{- $port := regexFind ":[0-9]+$" (regexFind "^https?://[^/?]+" $url) | trimPrefix ":" -}}
{{- $default := ternary 443 80 (hasPrefix "https:" $url) -}}
{{- $ports = append $ports (ternary (int $port) $default (ne $port "")) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
