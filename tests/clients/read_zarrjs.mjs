// zarr.js. It brings no store of files, so it gets the smallest one.

import { readFile, stat } from "node:fs/promises";
import { KeyError, openArray } from "zarr";
import { content, run, versionOf } from "./answers.mjs";

class Files {
  constructor(root) {
    this.root = root;
  }
  async getItem(key) {
    const bytes = await readFile(`${this.root}/${key}`).catch((error) => {
      throw error.code === "ENOENT" ? new KeyError(key) : error;
    });
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  }
  async containsItem(key) {
    try {
      return (await stat(`${this.root}/${key}`)).isFile();
    } catch (error) {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return false;
      throw error;
    }
  }
  keys() {
    throw new Error("not listed");
  }
  setItem() {
    throw new Error("read-only");
  }
  deleteItem() {
    throw new Error("read-only");
  }
}

await run(`zarr.js ${versionOf("zarr")}`, async (folder, name) => {
  const array = await openArray({ store: new Files(folder), path: name, mode: "r" });
  const got = await array.getRaw(null);
  if (typeof got === "number") throw new TypeError("a number without its type");
  return [got.shape, ...content(got.data, got.shape, got.strides)];
});
