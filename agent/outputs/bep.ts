/**
 * What a build says of its own outputs: the build event protocol, as `--build_event_binary_file` writes it (each event
 * after its length). Field numbers from Bazel's `build_event_stream.proto` (4.2.3, in Debian's package
 * bazel-bootstrap-source); 2.1.0 and 7.7.1 have the same, and more. OutputGroup.inline_files is from HEAD of 2026, where
 * `--experimental_build_event_output_group_mode` asks for it.
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

/** What the events of a command tell. All paths are the developer's, absolute and normal, in the order of the events. */
export interface BuildEvents {
  /** Undefined: the build did not get that far. */
  execRoot?: string;
  /** The outputs of the targets that were named, of all output groups that were asked for. Also source files. */
  files: string[];
  /** Outputs that are folders (tree artifacts). Bazel before 4.x names only the files in them. */
  folders: string[];
  /** The labels of the targets that were named, and are completed. */
  labels: Set<string>;
  /** Logs and other files of the tests that ran, or whose result was there already. */
  testOutputs: string[];
  /** False if the file ends in the middle of an event, or holds something else. */
  whole: boolean;
}

/** An event of Bazel's is smaller: what it prints comes in pieces, and large sets of files in several. Bytes. */
const MAX_EVENT_BYTES = 32 << 20;
/** What of the events is kept until the last one was read: a hundred thousand files are 20 MB. Bytes. */
const MAX_KEPT_BYTES = 128 << 20;

/**
 * Reads all events. Never throws for what they hold: what is none ends the reading, and so does more than can be kept.
 *
 * @param pieces The file's bytes, in order, cut anywhere. One is done with when the next is asked for.
 */
export async function readBuildEvents(pieces: Iterable<Uint8Array>): Promise<BuildEvents> {
  const events: BuildEvents = { files: [], folders: [], labels: new Set(), testOutputs: [], whole: true };
  const sets = new Map<string, Uint8Array>();
  const wanted: string[] = [];
  const folders: Uint8Array[] = [], tests: Uint8Array[] = [], inline: Uint8Array[] = [];
  const pace = new Pace();
  let kept = 0;
  const keep = (value: Uint8Array) => {
    // Beside the bytes, an array's own.
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
    // Sets share sets: each is looked into once.
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
 * The messages of a file in which each stands after its length; each is good until the next one is asked for. Throws a
 * WireError when the file ends within one.
 */
function* delimited(pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  let rest: Uint8Array = new Uint8Array();
  // Of the message at the beginning of `rest`, once all of its length is there.
  let message: { start: number; end: number } | undefined;
  const parts: Uint8Array[] = [];
  let waiting = 0;
  for (const piece of pieces) {
    // A message that goes over many pieces is put together once.
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

/** Where the message begins and ends whose length stands at `at`; undefined: the length is not all there yet. */
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

/** Where a File may be on this disk: at one path, at either of two, or nowhere. */
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
  // Folders have no URI, and that of a file in a remote cache (bytestream://) says nothing of its place.
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
 * Bazel keeps the bytes of names as characters of latin-1, and writes these as UTF-8 (2.1.0 everywhere, 4.2.3 in URIs):
 * "ö" comes as "Ã¶". Where those bytes are not UTF-8, only what is there tells which of two names is meant.
 */
function meanings(path: string): string[] {
  if (!/[\x80-\xff]/.test(path) || /[^\0-\xff]/.test(path)) return [path];
  const name = decodeName(Buffer.from(path, "latin1"));
  return isRaw(name) ? [path, name] : [name];
}

/** `path` if it is absolute and says where it leads: without "..", NUL and the like. */
function absolute(path: string): string | undefined {
  return path.startsWith("/") && normalize(path) === path && !path.includes("\0") ? path.replace(/\/$/, "") : undefined;
}
