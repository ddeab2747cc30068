// What makes an endpoint long is folded: each refusal is a line, and headers are their names.

const REFUSED = 400;

/**
 * A refusal in a line, with all of it below on demand.
 * @param {any} Original
 * @param {any} system
 */
function response(Original, { React, getComponent }) {
  const Markdown = getComponent("Markdown", true);
  return function Folded(/** @type {any} */ props) {
    const [isOpen, open] = React.useState(false);
    const whole = React.createElement(Original, props);
    if (Number(props.code) < REFUSED) return whole;
    const button = React.createElement(
      "button",
      {
        type: "button",
        className: "fold",
        "aria-expanded": isOpen,
        "aria-label": `Fields of ${props.code}`,
        onClick: () => open(!isOpen),
      },
      isOpen ? "Fewer" : "Fields",
    );
    const told = React.createElement(Markdown, { source: props.response.get("description") });
    const line = React.createElement(
      "tr",
      { className: "response folded", "data-code": props.code },
      React.createElement("td", { className: "response-col_status" }, props.code),
      React.createElement("td", { className: "response-col_description" }, told, button),
    );
    return React.createElement(React.Fragment, null, line, isOpen && whole);
  };
}

/**
 * The names of headers, with what they say below on demand.
 * @param {any} Original
 * @param {any} system
 */
function headers(Original, { React }) {
  return function Named(/** @type {any} */ props) {
    const names = props.headers ? [...props.headers.keys()] : [];
    if (names.length === 0) return null;
    const title = React.createElement("summary", null, `Headers it may have: ${names.join(", ")}`);
    const whole = React.createElement(Original, props);
    return React.createElement("details", { className: "named-headers" }, title, whole);
  };
}

export const folding = { wrapComponents: { response, headers } };
