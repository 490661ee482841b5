#!/bin/sh
# Keeps each request as a file of one line: its webhook-id, the time in unix seconds, its body. The server of busybox runs it.
set -e
new=$(mktemp /told/XXXXXX)
{
    printf '%s\t%s\t' "$HTTP_WEBHOOK_ID" "$(date +%s)"
    head -c "$CONTENT_LENGTH"
    echo
} >"$new"
# Only what is complete is read.
mv "$new" "$new.told"
printf 'Content-Type: text/plain\r\n\r\nkept\n'
