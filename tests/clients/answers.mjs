// What every reader of the matrix says, as answers.py has it. *read* takes a group's folder and a name.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const NAMES = {
  Int8Array: "int8", Uint8Array: "uint8", Uint8ClampedArray: "uint8", Int16Array: "int16",
  Uint16Array: "uint16", Int32Array: "int32", Uint32Array: "uint32", BigInt64Array: "int64",
  BigUint64Array: "uint64", Float16Array: "float16", Float32Array: "float32", Float64Array: "float64",
};

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");

export function versionOf(name) {
  const folder = createRequire(import.meta.url).resolve.paths(name)[0];
  return JSON.parse(readFileSync(`${folder}/${name}/package.json`, "utf8")).version;
}

// Numbers in C order, whatever the strides of the library's array.
export function content(data, shape, stride) {
  const kind = data.constructor.name;
  if (!(kind in NAMES)) {
    if (kind === "BoolArray") return ["bool", new Uint8Array([...data].map(Number))];
    throw new TypeError(`${kind} is not numbers`);
  }
  const size = shape.reduce((product, length) => product * length, 1);
  const ordered = new data.constructor(size);
  const index = shape.map(() => 0);
  let offset = 0;
  for (let n = 0; n < size; n++) {
    ordered[n] = data[offset];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      offset += stride[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= stride[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return [NAMES[kind], ordered];
}

export async function run(version, read) {
  say({ version });
  // What a library left running when it threw is no answer.
  process.on("unhandledRejection", () => {});
  const root = process.argv[2];
  for (const [group, names] of JSON.parse(readFileSync(0, "utf8"))) {
    for (const name of names) {
      const path = `${group}/${name}`.replace(/^\/+/, "");
      say({ begin: path });
      try {
        const [shape, dtype, values] = await read(`${root}/${group}`.replace(/\/+$/, ""), name);
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        const sha256 = createHash("sha256").update(bytes).digest("hex");
        say({ path, shape, dtype, sha256 });
      } catch (error) {
        say({ path, error: `${error.name}: ${String(error.message).split("\n")[0].slice(0, 200)}` });
      }
    }
  }
}
