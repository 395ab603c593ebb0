/**
 * What a command has said, kept until the caller has it: a link that breaks then loses no byte and doubles none.
 *
 *     upstream ──append──> [seq 7][seq 8][seq 9] ──sink──> caller
 *                             ^ acknowledged up to 6
 */
import { Buffer } from "node:buffer";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";

/** Bytes that wait for their acknowledgement before the command is held back: what a cut link makes an agent hold. */
const HIGH_WATER = 32 << 20;

/** Field numbers of ExecuteResponse, as in proto/contract/rbs/v1/command.proto. */
export const ExecuteResponseField = { sequence: 1, runResponse: 2, outputs: 3, named: 4 } as const;

/** Takes an encoded ExecuteResponse; returns what to wait for before the next. */
export type Sink = (message: Uint8Array) => Promise<void> | undefined;

/** See the file's head. */
export class CommandJournal {
  readonly #kept: { sequence: number; message: Uint8Array }[] = [];
  #bytes = 0;
  #sequence = 0;
  #acknowledged = 0;
  #sink?: Sink;
  #changed = () => {};
  #abandoned = false;

  /** The last sequence number that was given. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Whether the caller has everything. */
  get settled(): boolean {
    return this.#acknowledged === this.#sequence;
  }

  /**
   * Appends a response and sends it to the caller, if there is one. Resolves when more may be appended: when the caller
   * reads, or, without a caller, when not too much is kept.
   *
   * @param field Of ExecuteResponse.
   * @param value The field's bytes; they belong to the journal from now on.
   */
  async append(field: number, value: Uint8Array): Promise<void> {
    const sequence = ++this.#sequence;
    if (this.#abandoned) return void this.#acknowledged++;
    const head = encodeFields([[ExecuteResponseField.sequence, sequence]]);
    const message = Buffer.concat([head, lengthPrefix(field, value.length), value]);
    this.#kept.push({ sequence, message });
    this.#bytes += message.length;
    const drained = this.#sink?.(message);
    if (drained) await Promise.race([drained, this.#change()]);
    while (this.#bytes > HIGH_WATER) await this.#change();
  }

  /** Forgets what the caller has. A number that was never given is none of an honest caller, and changes nothing. */
  acknowledge(sequence: number): void {
    if (!(sequence > this.#acknowledged && sequence <= this.#sequence)) return;
    this.#acknowledged = sequence;
    let count = 0;
    while (count < this.#kept.length && this.#kept[count].sequence <= sequence) {
      this.#bytes -= this.#kept[count++].message.length;
    }
    this.#kept.splice(0, count);
    this.#wake();
  }

  /**
   * Sends everything after `received` to a new caller, and from then on what is appended. False if what it lacks is
   * kept no more, or was never there: it is not the caller that acknowledged.
   */
  attach(received: number, sink: Sink): boolean {
    if (this.#abandoned || received < this.#acknowledged || received > this.#sequence) return false;
    this.acknowledge(received);
    this.#sink = sink;
    for (const { message } of this.#kept) void sink(message);
    this.#wake();
    return true;
  }

  /** The caller is gone, if it is still this one; what is appended is kept. */
  detach(sink: Sink): void {
    if (this.#sink !== sink) return;
    this.#sink = undefined;
    this.#wake();
  }

  /** Keeps nothing any more and holds nobody back: no caller will ever ask. */
  abandon(): void {
    this.#sink = undefined;
    this.#abandoned = true;
    this.acknowledge(this.#sequence);
    this.#wake();
  }

  /** Resolves when the caller has everything that was appended so far. */
  async delivered(): Promise<void> {
    while (!this.settled) await this.#change();
  }

  #change(): Promise<void> {
    const before = this.#changed;
    return new Promise((resolve) =>
      this.#changed = () => {
        before();
        resolve();
      }
    );
  }

  #wake(): void {
    const changed = this.#changed;
    this.#changed = () => {};
    changed();
  }
}
