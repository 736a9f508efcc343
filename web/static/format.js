// Numbers as people read them. What is not known is shown as "–", never as zero.

export const UNKNOWN = "–";

const known = (number) => typeof number === "number" && Number.isFinite(number);

// Three significant digits, without an exponent and without a lonely trailing point.
const digits = (number) => {
  const size = Math.abs(number);
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
};

const scaled = (number, base, units) => {
  let step = 0;
  while (Math.abs(number) >= 999.5 && step < units.length - 1) {
    number /= base;
    step += 1;
  }
  return `${digits(number)} ${units[step]}`;
};

// Seconds → "8.20 ms", "271 ms", "1.24 s".
export const duration = (seconds) => {
  if (!known(seconds)) return UNKNOWN;
  return Math.abs(seconds) < 0.9995 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds)} s`;
};

// Bytes per second → "80.0 Mbit/s"; links are named by bits, files by bytes.
export const rate = (bytesPerSecond) =>
  known(bytesPerSecond) ? scaled((bytesPerSecond * 8) / 1e6, 1e3, ["Mbit/s", "Gbit/s", "Tbit/s"]) : UNKNOWN;

// Bytes → "774 KB", decimal as on a network.
export const bytes = (count) =>
  !known(count)
    ? UNKNOWN
    : count < 1e3
      ? `${Math.round(count)} B`
      : scaled(count / 1e3, 1e3, ["KB", "MB", "GB", "TB"]);

// Share → "−3.1 %", with its sign.
export const deviation = (share) => {
  if (!known(share)) return UNKNOWN;
  const percent = Math.abs(share * 100).toFixed(1);
  return `${percent === "0.0" ? "±" : share < 0 ? "−" : "+"}${percent} %`;
};

export const count = (number) => (known(number) ? number.toLocaleString("en-US") : UNKNOWN);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Emulated speed: 1 is this machine as it is.
export const speed = (factor) => {
  if (!known(factor)) return UNKNOWN;
  return factor === 1 ? "1×" : `${Number(factor.toPrecision(3))}× emulated`;
};

export const shape = (dimensions, dtype) =>
  Array.isArray(dimensions) ? `[${dimensions.join(", ")}] ${dtype ?? ""}`.trim() : UNKNOWN;

export const text = (value) =>
  value === null || value === undefined || value === "" ? UNKNOWN : String(value);

// A time on the server's clock → this browser's time of day. `nowS` is the server's clock, read when
// this browser's was `nowMs`.
export const timeOfDay = (timeS, nowS, nowMs) => {
  if (!known(timeS) || !known(nowS)) return UNKNOWN;
  return new Date(nowMs - (nowS - timeS) * 1e3).toTimeString().slice(0, 8);
};

// How long ago, on one clock: "now", "3 s ago", "5 min ago".
export const age = (nowS, thenS) => {
  if (!known(thenS) || !known(nowS)) return UNKNOWN;
  const seconds = nowS - thenS;
  if (seconds < 1) return "now";
  if (seconds < 100) return `${Math.floor(seconds)} s ago`;
  return seconds < 6_000 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
};

// Until when, as time left: "23 s left", "2:05 min left", "until undone".
export const left = (untilS, nowS) => {
  if (!known(untilS)) return "until undone";
  const seconds = Math.max(0, Math.ceil(untilS - nowS));
  return seconds < 100
    ? `${seconds} s left`
    : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min left`;
};

// Relative error → "3e-7".
export const error = (relative) => (known(relative) ? relative.toExponential(0) : UNKNOWN);

// Whether outputs equal the undivided model's. Equal fingerprints promise equal bits, others 1e-5.
export const exactness = (exact, sameFingerprint) => {
  const { checked, identical, max_rel_err: worst } = exact ?? {};
  if (!checked) return { level: "unknown", mark: UNKNOWN, text: "not checked yet" };
  const share = `${count(identical)} of ${count(checked)}`;
  if (identical === checked) return { level: "exact", mark: "✓", text: `bit-identical ${share}` };
  if (!sameFingerprint && known(worst) && worst <= 1e-5)
    return { level: "close", mark: "≈", text: `within 1e-5 (bit-identical ${share})` };
  return {
    level: "mismatch",
    mark: "✗",
    text: `MISMATCH: bit-identical ${share}, off by up to ${error(worst)}`,
  };
};
