{{/* What the server may hold: its history, and its memory. */}}

{{/* HISTORY_MAX_BYTES where the values do not say it. PostgreSQL's volumes hold its write-ahead log as well, and copies while it vacuums. Of an external
     database the size is not known. */}}
{{- define "golectra.server.historyMaxBytes" -}}
{{- if eq .Values.database.mode "cnpg" -}}
{{- $bytes := include "golectra.volumeShare" (dict "size" .Values.database.cnpg.storage.size "share" 0.7) -}}
{{- if ne $bytes "0" -}}{{ $bytes }}{{- end -}}
{{- else if eq .Values.database.mode "embedded" -}}
256MiB
{{- end -}}
{{- end -}}

{{/* What is wrong with a history that does not fit its volume, or nothing. It may take less than half of the memory store's volume: a file of the history stays
     while a part of it is needed, a save writes the new snapshot and journal beside the old ones, and damaged files are kept. PostgreSQL's write-ahead log
     may have a volume of its own (walStorage). */}}
{{- define "golectra.server.historyTooLarge" -}}
{{- $given := .Values.server.settings.historyMaxBytes -}}
{{- if not (kindIs "string" $given) -}}{{- $given = $given | int64 -}}{{- end -}}
{{- $database := .Values.database -}}
{{- $volume := dict -}}
{{- if eq $database.mode "cnpg" -}}
{{- $volume = dict "of" "database.cnpg" "size" $database.cnpg.storage.size "share" 0.8 "beside" ", a volume that also holds PostgreSQL's write-ahead log" -}}
{{- if $database.cnpg.extraSpec.walStorage -}}
{{- $volume = dict "of" "database.cnpg" "size" $database.cnpg.storage.size "share" 0.95 "beside" "" -}}
{{- end -}}
{{- else if eq $database.mode "embedded" -}}
{{- $beside := ", a volume that also holds the snapshot, the journal and old files" -}}
{{- $volume = dict "of" "database.embedded" "size" $database.embedded.storage.size "share" 0.45 "beside" $beside -}}
{{- end -}}
{{- if $volume -}}
{{- $most := include "golectra.volumeShare" $volume | int64 -}}
{{- if and $most (gt (include "golectra.bytes" ($given | default "0") | int64) $most) -}}
{{- printf "server.settings.historyMaxBytes=%v does not fit %s.storage.size=%v%s: set at most %dMiB, or a larger size." $given $volume.of $volume.size $volume.beside (div $most 1048576) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The sum of everything that the settings allow the server to hold in memory, in MiB, rounded up. A setting without a value has the server's default.
     A test adds up the same from the server's own list of settings. */}}
{{- define "golectra.server.memoryMiB" -}}
{{- $settings := .Values.server.settings -}}
{{- $inflight := include "golectra.bytes" ($settings.maxInflightBytes | default "128MiB") | int64 -}}
{{- $twoBodies := include "golectra.bytes" ($settings.maxBodyBytes | default "16MiB") | int64 | mul 2 -}}
{{- $bytes := list
    (max $inflight $twoBodies)
    (include "golectra.bytes" ($settings.queryMaxBytes | default "128MiB") | int64)
    (mul ($settings.maxConnections | default 8192 | int64) 20480) -}}
{{- /* The program; long heads of requests; answers that clients have not taken; the listings of newest values and the audit events' names; a stack for each
       query and export that runs, for that of a rule, and for the threads that help queries. */ -}}
{{- $stacks := mul ($settings.queryConcurrency | default 4 | int64 | add 2) 8 -}}
{{- $mebibytes := list 64 32 64 32 8 $stacks 8 -}}
{{- if eq .Values.database.mode "embedded" -}}
{{- $history := $settings.historyMaxBytes | default (include "golectra.server.historyMaxBytes" .) -}}
{{- $bytes = concat $bytes (list (include "golectra.bytes" $history | int64) (mul ($settings.maxSeries | default 1000000 | int64) 128)) -}}
{{- /* Audit events that wait; changes that wait for the disk; 2,000,000 remembered keys. */ -}}
{{- $mebibytes = concat $mebibytes (list 128 72 69) -}}
{{- else -}}
{{- $bytes = append $bytes (include "golectra.bytes" ($settings.indexCacheBytes | default "32MiB") | int64) -}}
{{- $bytes = append $bytes (include "golectra.bytes" ($settings.sampleCacheBytes | default "64MiB") | int64) -}}
{{- /* Batches that wait for the two writers; the lists of series that these know, and that queries know; sealing; audit events on their way to the sink; the
       stacks of queries and exports that make way for writers. */ -}}
{{- $mebibytes = concat $mebibytes (list 32 72 8 64 16 $stacks) -}}
{{- end -}}
{{- $sum := 0 -}}
{{- range $bytes -}}{{- $sum = add $sum . -}}{{- end -}}
{{- range $mebibytes -}}{{- $sum = add $sum (mul . 1048576) -}}{{- end -}}
{{- /* In steps of 64 MiB. */ -}}
{{- mul (div (add $sum 67108863) 67108864) 64 -}}
{{- end -}}

{{- define "golectra.server.resources" -}}
{{- $resources := deepCopy .Values.server.resources -}}
{{- if eq (dig "limits" "memory" "none" $resources | toString) "" -}}
{{- $_ := set $resources.limits "memory" (printf "%sMi" (include "golectra.server.memoryMiB" .)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
