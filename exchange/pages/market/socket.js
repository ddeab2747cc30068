// A WebSocket to the gateway, and who uses it.

import { streamProof } from "../shared/door.js";

const STREAM = "./stream";
const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 5_000;

/**
 * Open one that tells each message and its end, unless another has taken its place.
 * @param {(text: string, of: WebSocket) => void} hear
 * @param {(event: CloseEvent, of: WebSocket) => void} end
 */
export function opened(hear, end) {
  const url = new URL(STREAM, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url);
  socket.addEventListener("message", (event) => hear(event.data, socket));
  socket.addEventListener("close", (event) => end(event, socket));
  return socket;
}

/**
 * Say who has logged in, and tell whether somebody has: the gateway says whether it believes that.
 * @param {WebSocket} socket
 */
export async function introduced(socket) {
  const proof = await streamProof(new URL(STREAM, document.baseURI));
  if (proof && socket.readyState === WebSocket.OPEN)
    socket.send(JSON.stringify({ type: "authenticate", ...proof }));
  return proof !== null;
}

/** @param {WebSocket | null} socket */
export function isOpen(socket) {
  return socket?.readyState === WebSocket.OPEN;
}

/**
 * Return after how long another one is tried; not all pages of a gateway at the same moment.
 * @param {number} attempts That failed in a row.
 */
export function retryMs(attempts) {
  return Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** attempts) * (0.5 + Math.random() / 2);
}
