#!/bin/sh
# Send one signed request, with openssl and curl alone (docs/protocol.md, "Signed requests").
#
#   KEY_ID=… SECRET=… sh docs/signed_request.sh POST http://localhost:3000/orders '{"instrument": …}'
#
# SECRET is what the key file has. ALGORITHM is hmac-sha256, or ed25519 where it is not set.
set -eu
method=$1 url=$2 body=${3-}

rest=${url#*://}
authority=$(printf %s "${rest%%/*}" | tr 'A-Z' 'a-z')
authority=${authority%:80}
target=/${rest#*/}
path=${target%%\?*}
case $target in *\?*) query="?${target#*\?}" ;; *) query="?" ;; esac

digest="sha-256=:$(printf %s "$body" | openssl dgst -sha256 -binary | openssl base64 -A):"
parameters='("@method" "@authority" "@path" "@query" "content-digest")'
parameters="$parameters;created=$(date +%s);nonce=\"$(openssl rand -hex 16)\";keyid=\"$KEY_ID\""

files=$(mktemp -d)
trap 'rm -r "$files"' EXIT
printf '"@method": %s\n"@authority": %s\n"@path": %s\n"@query": %s\n"content-digest": %s\n"@signature-params": %s' \
  "$method" "$authority" "$path" "$query" "$digest" "$parameters" > "$files/text"
printf '%s=' "$SECRET" | tr '_-' '/+' | openssl base64 -d -A > "$files/secret"

if [ "${ALGORITHM-ed25519}" = ed25519 ]; then
  # The secret is the private key; these bytes before it say so (RFC 8410).
  { printf '\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040'; cat "$files/secret"; } > "$files/key"
  openssl pkeyutl -sign -rawin -inkey "$files/key" -keyform DER -in "$files/text" > "$files/signature"
else
  hex=$(od -An -v -tx1 "$files/secret" | tr -d ' \n')
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$hex" -binary "$files/text" > "$files/signature"
fi

curl -s -X "$method" "$url" --data-binary "$body" -H 'Content-Type: application/json' \
  -H "Content-Digest: $digest" -H "Signature-Input: sig1=$parameters" \
  -H "Signature: sig1=:$(openssl base64 -A -in "$files/signature"):"
