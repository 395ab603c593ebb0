/**
 * A caller may not do what it asks for. The transport converts it into its own kind of answer: a gRPC code, an HTTP
 * status.
 */
export class AccessDenied extends Error {
  override readonly name = "AccessDenied";

  /**
   * @param kind "unauthenticated": the caller is unknown. "forbidden": the caller is known, but may not do this.
   * @param sentence For the caller.
   */
  constructor(readonly kind: "unauthenticated" | "forbidden", readonly sentence: string) {
    super(sentence);
  }
}
