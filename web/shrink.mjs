// Makes what the page's files are served as: `node shrink.mjs STATIC DIST` (run by vendor.py, beside node_modules).
//
// Every module is minified on its own and stays a module, with a source map beside it (`.map`); that and every
// other text is compressed by Brotli (`.br`). `made.json` says of which source each was made: the server gives
// out a file from here only while its source is the same.
//
// Of uPlot it leaves out what the page never asks for: the ways to draw and the helpers that it offers by names
// of its own (bars, splines, joining tables, …), and the styles of its legend. What nothing refers to any more
// then goes by itself; all that is left is as uPlot's authors wrote it.

import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { minify } from "terser";

const [from, to] = process.argv.slice(2);
const QUALITY = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
const TEXTS = [".js", ".css", ".svg", ".html"];
const UPLOT = join("vendor", "uPlot");
const UNUSED_PATHS = ["stepped", "bars", "spline"];
const UNUSED_STYLES = /^\.u-(legend|inline|series|marker|label|value|title)\b/;

// For styles as ours are: no string in them has one of these signs.
const styles = (source) =>
  source
    .replace(/\/\*[^]*?\*\//g, "")
    .replace(/\s+/g, " ")
    .replace(/ ?([{};,]) ?/g, "$1")
    .replace(/: /g, ":")
    .trim();

// Takes `found` out of `source`, which must have it: another uPlot than the lock file's is looked at first.
const without = (source, found) => {
  if (!source.match(found)) throw new Error(`uPlot is not as it was: there is no ${found}`);
  return source.replace(found, "");
};

const lean = (source) =>
  [
    ...UNUSED_PATHS.map((name) => new RegExp(`^\\t\\(paths\\.${name} += \\w+\\);$`, "m")),
    /^\t?uPlot\.(assign|fmtNum|range\w+|orient|join|fmtDate|tzDate|addGap|clipGaps) += \w+;$/gm,
  ].reduce(without, source);

const leanStyles = (source) =>
  source.replace(/([^{}]+)\{[^}]*\}/g, (rule, names) => (names.split(",").every((name) => UNUSED_STYLES.test(name)) ? "" : rule));

const shrunk = async (name, source) => {
  const foreign = name.startsWith(UPLOT);
  if (extname(name) === ".css") return { code: foreign ? leanStyles(styles(source)) : styles(source) };
  if (extname(name) !== ".js") return { code: source };
  return minify(
    { [basename(name)]: foreign ? lean(source) : source },
    { module: true, ecma: 2020, compress: { passes: 3 }, sourceMap: !foreign && { includeSources: true } },
  );
};

const made = {};
const names = (await readdir(from, { recursive: true })).filter((name) => TEXTS.includes(extname(name)));
for (const name of names.sort()) {
  const source = await readFile(join(from, name), "utf8");
  const { code, map } = await shrunk(name, source);
  await mkdir(dirname(join(to, name)), { recursive: true });
  await writeFile(join(to, name), code);
  await writeFile(join(to, `${name}.br`), brotliCompressSync(code, { params: QUALITY }));
  if (map) await writeFile(join(to, `${name}.map`), map);
  made[name] = createHash("sha256").update(source).digest("hex");
}
await writeFile(join(to, "made.json"), JSON.stringify(made, null, 1));
