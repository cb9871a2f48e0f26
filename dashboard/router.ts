import { createRouter, createWebHashHistory } from 'vue-router';
import ConvertView from './views/ConvertView.vue';

/** Where everything is. Behind a hash, as the paths themselves are the API's. */
export const router = createRouter({
  history: createWebHashHistory(),
  routes: [
    { path: '/', name: 'convert', component: ConvertView, meta: { title: 'Convert' } },
    {
      path: '/uploads',
      name: 'uploads',
      component: () => import('./views/UploadsView.vue'),
      meta: { title: 'Uploads' },
    },
    {
      path: '/uploads/:id',
      name: 'upload',
      component: () => import('./views/UploadView.vue'),
      props: true,
      meta: { title: 'Upload' },
    },
    { path: '/jobs', name: 'jobs', component: () => import('./views/JobsView.vue'), meta: { title: 'Jobs' } },
    {
      path: '/jobs/:id',
      name: 'job',
      component: () => import('./views/JobView.vue'),
      props: true,
      meta: { title: 'Job' },
    },
    {
      path: '/dead-letters',
      name: 'dead-letters',
      component: () => import('./views/DeadLettersView.vue'),
      meta: { title: 'Dead letters' },
    },
    { path: '/system', name: 'system', component: () => import('./views/SystemView.vue'), meta: { title: 'System' } },
    { path: '/:rest(.*)*', redirect: { name: 'convert' } },
  ],
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
});
