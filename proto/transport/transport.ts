/** A byte stream: a `Deno.Conn`, or what behaves like one. */
export interface Transport {
  /** @returns the number of bytes read, or null at the end. */
  read(into: Uint8Array): Promise<number | null>;
  /** @returns the number of bytes written. */
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
}
