// Runs a WebAssembly program under Node's system interface: node run_wasi.mjs PROGRAM.wasm [ARGUMENT...]
// It is given the environment, the standard streams and no folder.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { WASI } from "node:wasi";

const [program, ...programArguments] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: [basename(program), ...programArguments], env: process.env });
const { instance } = await WebAssembly.instantiate(await readFile(program), wasi.getImportObject());
process.exitCode = wasi.start(instance);
