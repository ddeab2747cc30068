// A new key of Ed25519, whose secret is made in this browser and goes to nobody.

import { base64url } from "./door.js";

const SEED_BYTES = 32; // the end of PKCS #8 (RFC 8410)

/**
 * Make one.
 * @returns {Promise<{publicKey: string, fileOf: (keyId: string) => string}>} The public key in hex,
 *   and the text of the key file, once the exchange has named the key.
 * @throws {Error} This browser cannot.
 */
export async function newKey() {
  const { subtle } = crypto;
  if (!subtle) throw new Error("A browser makes keys only on localhost or over TLS.");
  const pair = /** @type {CryptoKeyPair} */ (
    await subtle.generateKey({ name: "Ed25519" }, true, ["sign", "verify"])
  );
  const open = new Uint8Array(await subtle.exportKey("raw", pair.publicKey));
  const closed = new Uint8Array(await subtle.exportKey("pkcs8", pair.privateKey));
  const secret = base64url(closed.slice(-SEED_BYTES));
  return {
    publicKey: Array.from(open, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    fileOf: (keyId) => JSON.stringify({ key_id: keyId, algorithm: "ed25519", secret }),
  };
}
