import type { Json } from '../../support/service.ts';

type Answer = { status: number; headers: Headers; body: Json };

/** An answer as RFC 9457 wants it, with this status and code and a detail that matches. */
export function expectProblem(answer: Answer, status: number, code: string, detail = /./): void {
  const { status: said, code: given, request_id, detail: words } = answer.body;
  expect([answer.status, said, given, words]).toEqual([status, status, code, expect.stringMatching(detail)]);
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(request_id).toBe(answer.headers.get('x-request-id'));
}
