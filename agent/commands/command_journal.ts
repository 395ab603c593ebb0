/**
 * Keeps a command's responses until the caller has acknowledged them: a broken connection neither loses nor repeats a
 * byte.
 *
 *     upstream ──append──> [seq 7][seq 8][seq 9] ──sink──> caller
 *                             ^ acknowledged up to 6
 */
import { Buffer } from "node:buffer";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";

/** Unacknowledged bytes at which the command is held back: the maximum that an agent keeps for a broken link. */
const HIGH_WATER = 32 << 20;

/** Field numbers of ExecuteResponse, as in proto/contract/rbs/v1/command.proto. */
export const ExecuteResponseField = { sequence: 1, runResponse: 2, outputs: 3, named: 4 } as const;

/** Takes an encoded ExecuteResponse. Returns a promise to await before the next, if any. */
export type Sink = (message: Uint8Array) => Promise<void> | undefined;

/** The journal of one command. */
export class CommandJournal {
  readonly #kept: { sequence: number; message: Uint8Array }[] = [];
  #bytes = 0;
  #sequence = 0;
  #acknowledged = 0;
  #sink?: Sink;
  #changed = () => {};
  #abandoned = false;

  /** The last sequence number used. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Whether the caller has everything. */
  get settled(): boolean {
    return this.#acknowledged === this.#sequence;
  }

  /**
   * Appends a response and sends it to the caller, if there is one. Resolves when more may be appended: when the caller
   * has read enough or, without a caller, when not too much is kept.
   *
   * @param field Field number of ExecuteResponse.
   * @param value The field's bytes, which must not change afterwards.
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

  /**
   * Drops what the caller has. A number that was never used does not come from an honest caller, and has no effect.
   */
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
   * Sends everything after `received` to a new caller, and then what is appended. Returns false if the missing part is
   * no longer kept or never existed: this is not the caller that acknowledged.
   */
  attach(received: number, sink: Sink): boolean {
    if (this.#abandoned || received < this.#acknowledged || received > this.#sequence) return false;
    this.acknowledge(received);
    this.#sink = sink;
    for (const { message } of this.#kept) void sink(message);
    this.#wake();
    return true;
  }

  /** Detaches a caller, if it is still this one; what is appended is kept. */
  detach(sink: Sink): void {
    if (this.#sink !== sink) return;
    this.#sink = undefined;
    this.#wake();
  }

  /** Drops everything, and stops holding the command back: no caller will come. */
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
