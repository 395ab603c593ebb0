import { fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { RbsError } from "../base/errors.ts";
import { IssueCertificateRequestSchema, IssueCertificateResponseSchema } from "../contract/gen/rbs/v1/identity_pb.ts";
import type { LineReader } from "../base/line_reader.ts";
import type { Credentials } from "../identity/credentials.ts";
import { enrolBy } from "./enrolment.ts";

/**
 * Gets the agent's first certificate from the process that started it, over the pipes between them: see
 * BlankAgent.enrols_by_pipe. Throws an RbsError if that process does not answer.
 */
export async function enrolByPipe(
  { trustDomain, bootstrapToken }: { trustDomain: string; bootstrapToken: string },
  { input, print }: { input: Pick<LineReader, "next">; print(line: string): void },
): Promise<Credentials> {
  return await enrolBy(
    async (request) => {
      print(toJsonString(IssueCertificateRequestSchema, request));
      const answer = await input.next();
      if (!answer) throw new RbsError("it has closed the agent's standard input");
      return fromJsonString(IssueCertificateResponseSchema, answer, { ignoreUnknownFields: true });
    },
    { trustDomain },
    bootstrapToken,
  );
}
