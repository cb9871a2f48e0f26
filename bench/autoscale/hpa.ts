/**
 * The decisions of a HorizontalPodAutoscaler (autoscaling/v2), as Kubernetes documents it: a ratio with a tolerance, then
 * the stabilization windows, then the policies, then the bounds. https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
 */

interface Policy {
  type: 'Percent' | 'Pods';
  value: number;
  periodSeconds: number;
}

export interface Rules {
  stabilizationWindowSeconds: number;
  /** The policy that counts: the largest change (the default), the smallest change, or none. */
  selectPolicy?: 'Max' | 'Min' | 'Disabled';
  policies: Policy[];
}

export interface Autoscaler {
  minReplicas: number;
  maxReplicas: number;
  /** Percent of the CPU request of a pod. */
  targetPercent: number;
  scaleUp: Rules;
  scaleDown: Rules;
}

/** The default of Kubernetes: no change within a tenth of the target. */
const TOLERANCE = 0.1;
export const SYNC_SECONDS = 15;

/** Keeps the recommendations and changes of earlier rounds. `decide` is called every `SYNC_SECONDS`. */
export function createAutoscaler({ minReplicas, maxReplicas, targetPercent, scaleUp, scaleDown }: Autoscaler) {
  const recommended: { at: number; replicas: number }[] = [];
  const changes: { at: number; by: number }[] = [];

  /** The replicas by the ratio alone. Pods that are not ready do not count, except as idle when the ratio rises. */
  function recommend(current: number, percents: number[]): number {
    const ratioOver = (pods: number) => percents.reduce((sum, percent) => sum + percent, 0) / pods / targetPercent;
    const rises = ratioOver(percents.length) > 1;
    const pods = rises ? Math.max(current, percents.length) : percents.length;
    const ratio = ratioOver(pods);
    // Without a ready pod nothing is known. A ratio that changes direction by counting idle pods changes nothing.
    if (percents.length === 0 || Math.abs(ratio - 1) <= TOLERANCE || rises !== ratio > 1) return current;
    return Math.ceil(ratio * pods);
  }

  /** The limit that the policies set. Each counts from the replicas at the start of its period. */
  function limit(now: number, current: number, { policies, selectPolicy }: Rules, sign: 1 | -1): number {
    if (selectPolicy === 'Disabled') return current;
    const steps = policies.map(({ type, value, periodSeconds }) => {
      const since = changes.filter(({ at }) => at > now - periodSeconds);
      const began = current - since.reduce((sum, { by }) => sum + by, 0);
      const most = type === 'Pods' ? value : (began * value) / 100;
      // A part of a pod counts as a whole pod, up and down.
      return sign > 0 ? Math.ceil(began + most) - current : current - Math.floor(began - most);
    });
    const step = selectPolicy === 'Min' ? Math.min(...steps) : Math.max(...steps);
    return current + sign * Math.max(0, step);
  }

  return {
    /** The new number of replicas. `percents` is the CPU of each ready pod as a share of its request; `now` in seconds. */
    decide(now: number, current: number, percents: number[]): number {
      // The first number of replicas counts as a recommendation, which delays scaling down.
      if (recommended.length === 0) recommended.push({ at: now, replicas: current });
      const wanted = recommend(current, percents);
      const within = (seconds: number) => [
        wanted,
        ...recommended.filter(({ at }) => at > now - seconds).map(({ replicas }) => replicas),
      ];
      // The lowest recent recommendation limits a rise, the highest limits a fall.
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
