// zarrita.js with its store of files.

import { FileSystemStore } from "@zarrita/storage";
import * as zarrita from "zarrita";
import { content, run, versionOf } from "./answers.mjs";

const open = process.argv[3] === "2" ? zarrita.open.v2 : zarrita.open.v3;

await run(`zarrita.js ${versionOf("zarrita")}`, async (folder, name) => {
  const root = zarrita.root(new FileSystemStore(folder));
  const array = await open(root.resolve(name), { kind: "array" });
  const got = await zarrita.get(array);
  if (array.shape.length) return [got.shape, ...content(got.data, got.shape, got.stride)];
  const { data } = await array.getChunk([]);
  return [[], ...content(data, [], [])];
});
