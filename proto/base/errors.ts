/** Who has to act on an error: retries and breakers depend on it. */
export type Culprit = "caller" | "infrastructure";

/** Options of {@link RbsError}. */
export interface RbsErrorOptions {
  /** The underlying error. */
  cause?: unknown;
  /** @default "infrastructure" */
  culprit?: Culprit;
  /** Exit code of a program that ends with this error. @default 1 */
  exitCode?: number;
}

/**
 * An error for the user: `message` is one sentence that says what failed, on what, and what to do. Further details are
 * in `cause`.
 */
export class RbsError extends Error {
  override readonly name = "RbsError";
  readonly culprit: Culprit;
  readonly exitCode: number;

  constructor(message: string, options: RbsErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.culprit = options.culprit ?? "infrastructure";
    this.exitCode = options.exitCode ?? 1;
  }
}

/** One sentence for anything thrown: the first line of an error's message, without a stack trace. */
export function sentence(thrown: unknown): string {
  const text = thrown instanceof Error ? thrown.message || thrown.name : String(thrown);
  return text.split("\n", 1)[0];
}

/** The system's name for what went wrong, as "ENOSPC": of an error of Deno, of Node or of the C library's; else undefined. */
export function systemCode(thrown: unknown): string | undefined {
  const code = (thrown as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}

/** Whether a disk, or what a user may have of it, is full. */
export function isDiskFull(thrown: unknown): boolean {
  const code = systemCode(thrown);
  return code === "ENOSPC" || code === "EDQUOT";
}
