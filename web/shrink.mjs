// Makes what the page's files are served as: `node shrink.mjs STATIC DIST` (run by vendor.py, beside node_modules).
//
// Every module is minified on its own and stays a module, with a source map beside it (`.map`); that and every
// other text is compressed by Brotli (`.br`). `made.json` says of which source each was made: the server gives
// out a file from here only while its source is the same.

import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { minify } from "terser";

const [from, to] = process.argv.slice(2);
const QUALITY = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
const TEXTS = [".js", ".css", ".svg", ".html"];
const VENDOR = "vendor"; // no modules, and minified by who made them

// For styles as ours are: no string in them has one of these signs.
const styles = (source) =>
  source
    .replace(/\/\*[^]*?\*\//g, "")
    .replace(/\s+/g, " ")
    .replace(/ ?([{};,]) ?/g, "$1")
    .replace(/: /g, ":")
    .trim();

const shrunk = async (name, source) => {
  if (extname(name) === ".css") return { code: styles(source) };
  if (extname(name) !== ".js") return { code: source };
  const own = dirname(name) !== VENDOR;
  return minify(
    { [basename(name)]: source },
    { module: own, ecma: 2020, compress: { passes: 3 }, sourceMap: own && { includeSources: true } },
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
