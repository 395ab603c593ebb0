/**
 * What a build tells of itself. Field numbers are those of HEAD's `build_event_stream.proto`; OutputGroup.inline_files is 5,
 * asked for by `--experimental_build_event_output_group_mode=<group>=<named_set_of_files_only|inline_only|both>`
 * (`BuildEventProtocolOptions.java`).
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { encodeFields, lengthPrefix } from "../../../../../proto/base/protobuf_fields.ts";

/** What is told of one target. */
export interface TargetEvent {
  label: string;
  success: boolean;
  /** Files of the default output group: absolute, and by their names below bazel-out's folder. */
  files: { path: string; name: string }[];
}

/** How a group's files are told. */
export type GroupMode = "named_set_of_files_only" | "inline_only" | "both";

const PREFIX = ["bazel-out", "k8-fastbuild", "bin"];

/** The mode of an output group: the last value for it counts. */
export function groupMode(args: readonly string[], group: string): GroupMode {
  const option = `--experimental_build_event_output_group_mode=${group}=`;
  const found = args.findLast((arg) => arg.includes(option));
  return (found?.slice(found.indexOf(option) + option.length).toLowerCase() ?? "named_set_of_files_only") as GroupMode;
}

/** A `--build_event_binary_file`: each event behind its length. */
export function buildEvents(execRoot: string, targets: readonly TargetEvent[], mode: GroupMode): Uint8Array {
  const events: Uint8Array[] = [encodeFields([[25, encodeFields([[1, execRoot]])]])];
  for (const [index, { label, success, files }] of targets.entries()) {
    const set = String(index), encoded = files.map(file);
    const id = encodeFields([[5, encodeFields([[1, label]])]]);
    const named = mode !== "inline_only", inline = mode !== "named_set_of_files_only";
    if (named) {
      const setId = encodeFields([[13, encodeFields([[1, set]])]]);
      events.push(encodeFields([[1, setId], [15, encodeFields(encoded.map((one) => [1, one]))]]));
    }
    const group = encodeFields([
      [1, "default"],
      [3, named ? encodeFields([[1, set]]) : undefined],
      ...inline ? encoded.map((one): [number, Uint8Array] => [5, one]) : [],
    ]);
    events.push(encodeFields([[1, id], [8, encodeFields([[1, success], [2, group]])]]));
  }
  events.push(encodeFields([[14, encodeFields([[1, true]])], [20, true]]));
  return Buffer.concat(events.flatMap((event) => [lengthPrefix(1, event.length).subarray(1), event]));
}

function file({ path, name }: TargetEvent["files"][number]): Uint8Array {
  const bytes = read(path);
  return encodeFields([
    [1, name],
    [2, `file://${path}`],
    ...PREFIX.map((part): [number, string] => [4, part]),
    [5, bytes && createHash("sha256").update(bytes).digest("hex")],
    [6, bytes?.length],
  ]);
}

function read(path: string): Uint8Array | undefined {
  try {
    return Deno.readFileSync(path);
  } catch {
    return undefined;
  }
}
