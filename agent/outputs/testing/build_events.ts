/** Makes build events as Bazel writes them. Field numbers as in ../bep.ts. */
import { Buffer } from "node:buffer";
import { encodeFields, lengthPrefix } from "../../../proto/base/protobuf_fields.ts";

/** A File. */
export function file({ uri, name, prefix = [] }: { uri?: string; name?: string; prefix?: string[] }): Uint8Array {
  return encodeFields([[1, name], [2, uri], ...prefix.map((part) => [4, part] as [number, string])]);
}

const id = (name: string) => encodeFields([[1, name]]);
type Fields = Parameters<typeof encodeFields>[0];

/** A NamedSetOfFiles event. */
export function namedSet(name: string, files: Uint8Array[], sets: string[] = []): Uint8Array {
  const set = encodeFields([...files.map((f) => [1, f]), ...sets.map((set) => [2, id(set)])] as Fields);
  return encodeFields([[1, encodeFields([[13, id(name)]])], [15, set]]);
}

/** A TargetComplete event with its output groups: for each, its sets and its inline files. */
export function completed(
  groups: [name: string, sets: string[], inline?: Uint8Array[]][],
  folders: Uint8Array[] = [],
): Uint8Array {
  const encoded = groups.map(([name, sets, inline = []]) =>
    encodeFields([[1, name], ...sets.map((set) => [3, id(set)]), ...inline.map((f) => [5, f])] as Fields)
  );
  return encodeFields([
    [1, encodeFields([[5, encodeFields([[1, "//:target"]])]])],
    [8, encodeFields([[1, true], ...encoded.map((g) => [2, g]), ...folders.map((f) => [8, f])] as Fields)],
  ]);
}

/** A TestResult event. */
export function testResult(outputs: Uint8Array[]): Uint8Array {
  return encodeFields([[10, encodeFields(outputs.map((output) => [2, output]))]]);
}

/** A WorkspaceConfig event. */
export function workspaceInfo(execRoot: string): Uint8Array {
  return encodeFields([[25, encodeFields([[1, execRoot]])]]);
}

/** A --build_event_binary_file with these events. */
export function eventFile(...events: Uint8Array[]): Uint8Array {
  // A bare length is a field's prefix without its tag.
  return Buffer.concat(events.flatMap((event) => [lengthPrefix(1, event.length).subarray(1), event]));
}
