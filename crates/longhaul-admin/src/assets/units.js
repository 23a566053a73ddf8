// Numbers for people: the same words everywhere on the page.

function short(value, unit) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1000) return `${Math.round(value)} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let at = 0;
  for (value /= 1000; value >= 1000 && at < units.length - 1; at += 1) value /= 1000;
  return short(value, units[at]);
}

export function milliseconds(value) {
  return value === null || value === undefined ? "–" : short(value, "ms");
}

export function percent(share) {
  if (share === null || share === undefined) return "–";
  return share === 0 ? "0 %" : `${(share * 100).toFixed(share < 0.1 ? 2 : 0)} %`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en").replaceAll(",", "\u202f");
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value > 0 && value < 10 ? value.toFixed(1) : count(Math.round(value));
}

export function span(seconds) {
  const steps = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [length, unit] = steps.find(([length]) => seconds >= 2 * length) ?? [1, "s"];
  return `${Math.floor(seconds / length)} ${unit}`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function moment(ms) {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}
