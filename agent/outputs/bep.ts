/**
 * Reads what a build says of its outputs: the build event protocol, as written by `--build_event_binary_file` (each
 * event after its length). Field numbers are those of Bazel's `build_event_stream.proto` (4.2.3, in Debian's package
 * bazel-bootstrap-source); 2.1.0 and 7.7.1 have the same and more. OutputGroup.inline_files is from HEAD of 2026, where
 * `--experimental_build_event_output_group_mode` enables it.
 */
import { Buffer } from "node:buffer";
import { normalize } from "node:path";
import { bytesValue, scanFields, textValue, WireError } from "../../proto/base/protobuf_fields.ts";
import { decodeName, encodeName, isRaw } from "../../proto/tree/names.ts";
import { Pace } from "../../proto/base/time_slice.ts";

const BuildEvent = { id: 1, completed: 8, testResult: 10, namedSet: 15, workspaceInfo: 25 };
/** BuildEventId.named_set, and the id in a NamedSetOfFilesId; BuildEventId.target_completed, and the label in that. */
const Id = { namedSet: 13, id: 1, targetCompleted: 5, label: 1 };
const NamedSet = { files: 1, fileSets: 2 };
const Completed = { outputGroup: 2, directoryOutput: 8 };
const OutputGroup = { fileSets: 3, inlineFiles: 5 };
const TestResult = { output: 2 };
const WorkspaceConfig = { execRoot: 1 };
const File = { name: 1, uri: 2, pathPrefix: 4 };

/**
 * The content of a command's events. All paths are the developer's, absolute and normalized, in the order of the
 * events.
 */
export interface BuildEvents {
  /** Undefined if the build did not get that far. */
  execRoot?: string;
  /** Outputs of the named targets, of all requested output groups. Includes source files. */
  files: string[];
  /** Outputs that are directories (tree artifacts). Bazel before 4.x names only the files in them. */
  folders: string[];
  /** Labels of the named targets that are completed. */
  labels: Set<string>;
  /** Logs and other files of tests, whether they ran or their results were cached. */
  testOutputs: string[];
  /** False if the file ends within an event, or is malformed. */
  whole: boolean;
}

/** Maximum size of an event in bytes. Bazel's are smaller, since it splits output and large sets of files. */
const MAX_EVENT_BYTES = 32 << 20;
/** Maximum bytes kept until the last event was read. A hundred thousand files take 20 MB. */
const MAX_KEPT_BYTES = 128 << 20;

/**
 * Reads all events. Never throws for their content: a malformed event or too much content ends the reading.
 *
 * @param pieces The file's bytes in order, split anywhere. A piece is no longer used when the next is requested.
 */
export async function readBuildEvents(pieces: Iterable<Uint8Array>): Promise<BuildEvents> {
  const events: BuildEvents = { files: [], folders: [], labels: new Set(), testOutputs: [], whole: true };
  const sets = new Map<string, Uint8Array>();
  const wanted: string[] = [];
  const folders: Uint8Array[] = [], tests: Uint8Array[] = [], inline: Uint8Array[] = [];
  const pace = new Pace();
  let kept = 0;
  const keep = (value: Uint8Array) => {
    // The constant is for the array itself.
    if ((kept += value.length + 100) > MAX_KEPT_BYTES) throw new WireError("there are too many files");
    return value.slice();
  };
  try {
    for (const event of delimited(pieces)) {
      if (pace.due) await pace.rest();
      let id: Uint8Array | undefined;
      scanFields(event, (field) => {
        if (field.wireType !== 2) return;
        const value = bytesValue(event, field);
        switch (field.number) {
          case BuildEvent.id:
            id = value;
            break;
          case BuildEvent.namedSet:
            sets.set(nested(id, Id.namedSet, Id.id) ?? "", keep(value));
            break;
          case BuildEvent.completed:
            events.labels.add(nested(id, Id.targetCompleted, Id.label) ?? "");
            each(value, (number, part) => {
              if (number === Completed.directoryOutput) folders.push(keep(part));
              else if (number === Completed.outputGroup) {
                each(part, (number, value) => {
                  if (number === OutputGroup.fileSets) wanted.push(text(keep(value), Id.id) ?? "");
                  else if (number === OutputGroup.inlineFiles) inline.push(keep(value));
                });
              }
            });
            break;
          case BuildEvent.testResult:
            each(value, (number, part) => void (number === TestResult.output && tests.push(keep(part))));
            break;
          case BuildEvent.workspaceInfo:
            events.execRoot ??= absolute(meanings(decodeName(bytesOf(value, WorkspaceConfig.execRoot)))[0]);
        }
      });
    }
    const add = (to: string[], file: Uint8Array) => {
      for (const path of filePaths(file, events.execRoot)) to.push(path);
    };
    for (const folder of folders) add(events.folders, folder);
    for (const test of tests) add(events.testOutputs, test);
    for (const file of inline) add(events.files, file);
    // Sets share sets, so each is read once.
    const seen = new Set<string>(wanted);
    for (const name of seen) {
      if (pace.due) await pace.rest();
      const set = sets.get(name);
      if (set) {
        each(set, (number, part) => {
          if (number === NamedSet.files) add(events.files, part);
          else if (number === NamedSet.fileSets) seen.add(text(part, Id.id) ?? "");
        });
      }
    }
  } catch (e) {
    if (!(e instanceof WireError)) throw e;
    events.whole = false;
  }
  return events;
}

/**
 * Yields the messages of a file in which each follows its length. A message is valid until the next is requested.
 * Throws a WireError if the file ends within a message.
 */
function* delimited(pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  let rest: Uint8Array = new Uint8Array();
  // Bounds of the message at the start of `rest`, once its length is complete.
  let message: { start: number; end: number } | undefined;
  const parts: Uint8Array[] = [];
  let waiting = 0;
  for (const piece of pieces) {
    // The pieces of a long message are joined once.
    if (message && rest.length + waiting + piece.length < message.end) {
      parts.push(piece.slice());
      waiting += piece.length;
      continue;
    }
    rest = Buffer.concat([rest, ...parts.splice(0), piece]);
    waiting = 0;
    let at = 0;
    for (;;) {
      message = lengthAt(rest, at);
      if (!message || message.end > rest.length) break;
      yield rest.subarray(message.start, message.end);
      at = message.end;
    }
    rest = rest.slice(at);
    message = lengthAt(rest, 0);
  }
  if (rest.length > 0 || waiting > 0) throw new WireError("an event is cut short");
}

/** The bounds of the message whose length is at `at`; undefined if the length is incomplete. */
function lengthAt(bytes: Uint8Array, at: number): { start: number; end: number } | undefined {
  let length = 0, scale = 1;
  for (; at < bytes.length; scale *= 128) {
    const byte = bytes[at++];
    length += (byte & 0x7f) * scale;
    if (length > MAX_EVENT_BYTES) throw new WireError("an event is too long");
    if (byte < 0x80) return { start: at, end: at + length };
    if (scale > 2 ** 35) throw new WireError("a length is too long");
  }
}

/** Visits the length-delimited fields. */
function each(message: Uint8Array, visit: (number: number, value: Uint8Array) => void): void {
  scanFields(message, (field) => {
    if (field.wireType === 2) visit(field.number, bytesValue(message, field));
  });
}

function bytesOf(message: Uint8Array, number: number): Uint8Array {
  let found: Uint8Array = new Uint8Array();
  each(message, (n, value) => void (n === number && (found = value)));
  return found;
}

function text(message: Uint8Array, number: number): string | undefined {
  let found: string | undefined;
  scanFields(message, (f) => void (f.number === number && f.wireType === 2 && (found = textValue(message, f))));
  return found;
}

function nested(message: Uint8Array | undefined, outer: number, inner: number): string | undefined {
  return message && text(bytesOf(message, outer), inner);
}

/** The paths where a File may be on this disk: none, one, or two alternatives. */
function filePaths(file: Uint8Array, execRoot: string | undefined): string[] {
  let uri = "", name = "";
  const prefix: string[] = [];
  each(file, (number, value) => {
    if (number === File.uri) uri = decodeName(value);
    else if (number === File.name) name = decodeName(value);
    else if (number === File.pathPrefix) prefix.push(decodeName(value));
  });
  const local = localPath(uri);
  const plain = (paths: string[]) => paths.map(absolute).filter((path) => path !== undefined);
  if (local !== undefined) return plain(meanings(local));
  // Directories have no URI, and the URI of a file in a remote cache (bytestream://) does not contain its path.
  if (execRoot === undefined || prefix.length === 0 || name === "") return [];
  return plain(meanings([...prefix, name].join("/")).map((path) => `${execRoot}/${path}`));
}

/** The path of a file: URI. */
function localPath(uri: string): string | undefined {
  const path = /^file:(?:\/\/(?:localhost)?(?=\/))?(\/[^]*)$/i.exec(uri)?.[1];
  if (path === undefined || !path.includes("%")) return path;
  if (/%(?![0-9a-f]{2})/i.test(path)) return undefined;
  const text = Buffer.from(encodeName(path)).toString("latin1");
  const bytes = text.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return decodeName(Buffer.from(bytes, "latin1"));
}

/**
 * Bazel stores the bytes of names as latin-1 characters, and writes these as UTF-8 (2.1.0 everywhere, 4.2.3 in URIs):
 * "ö" comes as "Ã¶". If the bytes are not UTF-8, only the disk tells which of the two names is meant.
 */
function meanings(path: string): string[] {
  if (!/[\x80-\xff]/.test(path) || /[^\0-\xff]/.test(path)) return [path];
  const name = decodeName(Buffer.from(path, "latin1"));
  return isRaw(name) ? [path, name] : [name];
}

/** `path` without a trailing slash, if it is absolute, normalized and without NUL; otherwise undefined. */
function absolute(path: string): string | undefined {
  return path.startsWith("/") && normalize(path) === path && !path.includes("\0") ? path.replace(/\/$/, "") : undefined;
}
