// An order's life: who stood on the other side of a trade of its.

/**
 * Return the other side of a trade, as the log has it; null if the event is no trade of the order.
 * @param {any} event
 * @param {string} order
 * @returns {{role: string, client: string, order: string} | null}
 */
export function otherOf(event, order) {
  const other = { [event.maker_order_id]: "taker", [event.taker_order_id]: "maker" };
  if (event.type !== "TradeExecuted" || !(order in other)) return null;
  const role = other[order];
  return { role, client: event[`${role}_client_id`], order: event[`${role}_order_id`] };
}

/**
 * Tell whether an event of the log is one of an order.
 * @param {any} event Undefined if there is none.
 * @param {string} order
 */
export function isOf(event, order) {
  return [event?.order_id, event?.maker_order_id, event?.taker_order_id].includes(order);
}
