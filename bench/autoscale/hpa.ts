/**
 * What a HorizontalPodAutoscaler (autoscaling/v2) decides, as Kubernetes documents it: a ratio with a tolerance, then the
 * stabilisation windows, then the policies, then the bounds. https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
 */

interface Policy {
  type: 'Percent' | 'Pods';
  value: number;
  periodSeconds: number;
}

export interface Rules {
  stabilizationWindowSeconds: number;
  /** Which of the policies counts: the one that changes most (unless said otherwise), or least; or nothing may change. */
  selectPolicy?: 'Max' | 'Min' | 'Disabled';
  policies: Policy[];
}

export interface Autoscaler {
  minReplicas: number;
  maxReplicas: number;
  /** Of what a pod has requested. */
  targetPercent: number;
  scaleUp: Rules;
  scaleDown: Rules;
}

/** Kubernetes' own: within a tenth of the target nothing changes. */
const TOLERANCE = 0.1;
export const SYNC_SECONDS = 15;

/** Keeps what earlier rounds recommended and changed. `decide` is called once every `SYNC_SECONDS`. */
export function createAutoscaler({ minReplicas, maxReplicas, targetPercent, scaleUp, scaleDown }: Autoscaler) {
  const recommended: { at: number; replicas: number }[] = [];
  const changes: { at: number; by: number }[] = [];

  /** What the ratio alone asks for. Pods that are not ready are left out, but count as idle where they would damp a rise. */
  function recommend(current: number, percents: number[]): number {
    const ratioOver = (pods: number) => percents.reduce((sum, percent) => sum + percent, 0) / pods / targetPercent;
    const rises = ratioOver(percents.length) > 1;
    const pods = rises ? Math.max(current, percents.length) : percents.length;
    const ratio = ratioOver(pods);
    // No pod is ready: nothing is known. What the idle ones turned round is no reason to change anything either.
    if (percents.length === 0 || Math.abs(ratio - 1) <= TOLERANCE || rises !== ratio > 1) return current;
    return Math.ceil(ratio * pods);
  }

  /** How far the policies let go. Each counts from what there was when its period began. */
  function limit(now: number, current: number, { policies, selectPolicy }: Rules, sign: 1 | -1): number {
    if (selectPolicy === 'Disabled') return current;
    const steps = policies.map(({ type, value, periodSeconds }) => {
      const since = changes.filter(({ at }) => at > now - periodSeconds);
      const began = current - since.reduce((sum, { by }) => sum + by, 0);
      const most = type === 'Pods' ? value : (began * value) / 100;
      // A share of a pod counts as a whole one, up and down.
      return sign > 0 ? Math.ceil(began + most) - current : current - Math.floor(began - most);
    });
    const step = selectPolicy === 'Min' ? Math.min(...steps) : Math.max(...steps);
    return current + sign * Math.max(0, step);
  }

  return {
    /** Replicas from now on. `percents` is the CPU of each pod that is ready, as a share of its request; `now` in seconds. */
    decide(now: number, current: number, percents: number[]): number {
      // What was there when it began holds a fall back as well.
      if (recommended.length === 0) recommended.push({ at: now, replicas: current });
      const wanted = recommend(current, percents);
      const within = (seconds: number) => [
        wanted,
        ...recommended.filter(({ at }) => at > now - seconds).map(({ replicas }) => replicas),
      ];
      // The lowest that was recommended lately holds back a rise, the highest a fall.
      const up = Math.min(...within(scaleUp.stabilizationWindowSeconds));
      const down = Math.max(...within(scaleDown.stabilizationWindowSeconds));
      recommended.push({ at: now, replicas: wanted });
      const stable = current < up ? up : current > down ? down : current;
      const allowed =
        stable > current
          ? Math.min(stable, limit(now, current, scaleUp, 1))
          : Math.max(stable, limit(now, current, scaleDown, -1));
      const replicas = Math.min(maxReplicas, Math.max(minReplicas, allowed));
      if (replicas !== current) changes.push({ at: now, by: replicas - current });
      return replicas;
    },
  };
}
