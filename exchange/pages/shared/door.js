// The key that a person logged in with, and what it signs.
//
// The key stays in the memory of this tab: the browser signs with it and gives it out to nobody, not
// even to this page, and whoever closes or reloads the tab has logged out. What is signed is RFC 9421
// in the exchange's one profile (docs/protocol.md).

const FIELDS = ["@method", "@authority", "@path", "@query", "content-digest"];
const KEY = "idempotency-key";
const LABEL = "sig1";
const NONCE_BYTES = 18; // 24 characters: no two requests of a key have the same
const SECRET_BYTES = 32;
// What stands before the 32 bytes of a private key in PKCS #8 (RFC 8410), which browsers read.
const PKCS8_OF_ED25519 = "302e020100300506032b657004220420";

/**
 * @typedef {{keyId: string, sign: (text: string) => Promise<string>}} Signer
 * @typedef {{method: string, url: URL, body: string, idempotencyKey: string | null}} Asked
 */

/** @type {Signer | null} */
let signer = null;
let clockMs = 0; // how far the exchange's clock is ahead of this one

/** @returns {string | null} The id of the key, null while nobody is logged in. */
export function keyId() {
  return signer?.keyId ?? null;
}

/**
 * Log in with the text of a key file.
 * @param {string} text
 * @throws {Error} It is none, or this browser cannot sign with it.
 */
export async function login(text) {
  signer = await signerOf(text);
}

export function logout() {
  signer = null;
}

/** @param {number} timeMs What time it is at the exchange. */
export function setClock(timeMs) {
  clockMs = timeMs - Date.now();
}

/**
 * Return the headers that prove who asks; none while nobody is logged in.
 * @param {URL} url
 * @param {RequestInit} options
 * @returns {Promise<Record<string, string>>}
 */
export async function proofOf(url, options) {
  if (!signer) return {};
  const { method = "GET", body } = options;
  const idempotencyKey = new Headers(options.headers).get(KEY);
  const asked = { method, url, body: typeof body === "string" ? body : "", idempotencyKey };
  const nonce = base64url(crypto.getRandomValues(new Uint8Array(NONCE_BYTES)));
  const createdS = Math.floor((Date.now() + clockMs) / 1000);
  const { digest, input, base } = await signedText(asked, signer.keyId, createdS, nonce);
  return {
    "Content-Digest": digest,
    "Signature-Input": `${LABEL}=${input}`,
    Signature: `${LABEL}=:${await signer.sign(base)}:`,
  };
}

/**
 * Return the fields of the stream's message that prove who asks; null while nobody is logged in.
 * @param {URL} url Of the stream, as one of HTTP.
 */
export async function streamProof(url) {
  if (!signer) return null;
  const proof = await proofOf(url, {});
  return { signature_input: proof["Signature-Input"], signature: proof.Signature };
}

/**
 * Return the digest of the body, the parameters of the signature, and the text that is signed.
 * @param {Asked} asked
 * @param {string} key
 * @param {number} createdS
 * @param {string} nonce
 */
export async function signedText({ method, url, body, idempotencyKey }, key, createdS, nonce) {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(body));
  const digest = `sha-256=:${base64(new Uint8Array(hash))}:`;
  const values = [method, url.host, url.pathname, url.search || "?", digest];
  const named = FIELDS.map((field, at) => [field, values[at]]);
  if (idempotencyKey !== null) named.push([KEY, idempotencyKey]);
  const fields = named.map(([field]) => `"${field}"`).join(" ");
  const input = `(${fields});created=${createdS};nonce="${nonce}";keyid="${key}"`;
  const lines = named.map(([field, value]) => `"${field}": ${value}`);
  return { digest, input, base: [...lines, `"@signature-params": ${input}`].join("\n") };
}

/**
 * @param {string} text
 * @returns {Promise<Signer>}
 */
async function signerOf(text) {
  if (!globalThis.isSecureContext)
    throw new Error("A browser signs only on localhost or over TLS: open this page there.");
  const { key_id: id, algorithm, secret } = parsed(text);
  const bytes = bytesOf(secret);
  if (typeof id !== "string" || !/^[0-9a-f]{32}$/.test(id) || bytes?.length !== SECRET_BYTES)
    throw new Error("This is no key of the exchange: give the whole text of its file.");
  const key = await imported(algorithm, bytes);
  return {
    keyId: id,
    async sign(base) {
      const signed = await crypto.subtle.sign(
        key.algorithm.name,
        key,
        new TextEncoder().encode(base),
      );
      return base64(new Uint8Array(signed));
    },
  };
}

/**
 * @param {unknown} algorithm
 * @param {Uint8Array<ArrayBuffer>} secret
 * @returns {Promise<CryptoKey>}
 */
async function imported(algorithm, secret) {
  const { subtle } = crypto;
  if (algorithm === "hmac-sha256")
    return subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  if (algorithm !== "ed25519") throw new Error(`A key of the kind ${algorithm} is not known here.`);
  const before = Uint8Array.from(PKCS8_OF_ED25519.match(/../g) ?? [], (hex) => Number(`0x${hex}`));
  try {
    const pkcs8 = new Uint8Array([...before, ...secret]);
    return await subtle.importKey("pkcs8", pkcs8, { name: "Ed25519" }, false, ["sign"]);
  } catch {
    throw new Error("This browser cannot sign with Ed25519: take a newer one, or an HMAC key.");
  }
}

/** @param {string} text @returns {Record<string, unknown>} */
function parsed(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/**
 * @param {unknown} text In base64url.
 * @returns {Uint8Array<ArrayBuffer> | null}
 */
function bytesOf(text) {
  if (typeof text !== "string" || !/^[\w-]+=*$/.test(text)) return null;
  try {
    const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(plain, (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
}

/**
 * Return bytes as text that may stand anywhere (RFC 4648, 5), without padding.
 * @param {Uint8Array} bytes
 */
export function base64url(bytes) {
  return base64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}
