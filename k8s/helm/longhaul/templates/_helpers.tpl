{{- define "longhaul.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "longhaul.selector" -}}
app.kubernetes.io/name: longhaul
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "longhaul.labels" -}}
{{ include "longhaul.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "longhaul.meta" -}}
labels:
  {{- include "longhaul.labels" . | nindent 2 }}
{{- end -}}

{{- define "longhaul.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "longhaul.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "longhaul.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What a container may: nothing. */}}
{{- define "longhaul.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "longhaul.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The mesh document as a value; fails with a sentence when it is missing, wrong, or without this region. */}}
{{- define "longhaul.mesh" -}}
{{- $mesh := required "mesh: give the mesh document with --set-file mesh=MESH.yaml" .Values.mesh | fromYaml -}}
{{- if $mesh.Error }}{{ fail (printf "mesh: no YAML: %s" $mesh.Error) }}{{ end -}}
{{- $regions := list -}}
{{- range $mesh.regions }}{{ $regions = append $regions .name }}{{ end -}}
{{- $region := required "region: say which region of the mesh document this is" .Values.region -}}
{{- if not (has $region $regions) -}}
{{- fail (printf "region: the mesh document has no region `%s`; its regions are %s" $region (join ", " $regions)) -}}
{{- end -}}
{{- toJson $mesh -}}
{{- end -}}

{{/* A quantity of memory in bytes. */}}
{{- define "longhaul.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- mul (int64 $number) (get $units (trimPrefix $number .)) -}}
{{- end -}}

{{/* The router's memory budget: a part of the limit, in MiB. */}}
{{- define "longhaul.memory" -}}
{{- $bytes := include "longhaul.bytes" .Values.resources.limits.memory | int64 -}}
{{- $mib := div (mul $bytes .Values.memoryPercent) 104857600 -}}
{{- if lt $mib 32 }}{{ fail "resources.limits.memory: too little; the router needs a budget of 32MiB" }}{{ end -}}
{{- $mib }}MiB
{{- end -}}

{{/* The router document: what the values say, and what the chart says itself. */}}
{{- define "longhaul.router" -}}
{{- $tls := dict
    "cert" "../tls/${env:POD_NAME}/tls.crt"
    "key" "../tls/${env:POD_NAME}/tls.key"
    "ca" (ternary "../tls/authorities/ca.crt" "../tls/${env:POD_NAME}/ca.crt" (ne .Values.tls.authorities.configMap "")) -}}
{{- if .Values.tls.revocations.configMap }}{{ $_ := set $tls "crl" "../tls/revocations/crl.pem" }}{{ end -}}
{{- $own := dict
    "apiVersion" "longhaul/v1"
    "kind" "Router"
    "region" .Values.region
    "name" "${env:POD_NAME}"
    "mesh" "mesh.yaml"
    "link" (dict "listen" "0.0.0.0:7443" "tls" $tls)
    "admin" (dict "listen" "0.0.0.0:9600")
    "memory" (include "longhaul.memory" .) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.router) $own) -}}
{{- end -}}

{{/* HOST:PORT of the router with that number; the list is in .Values.link.addresses, or made of the names inside the cluster. */}}
{{- define "longhaul.address" -}}
{{- $addresses := .root.Values.link.addresses -}}
{{- if not $addresses -}}
{{ include "longhaul.name" .root }}-{{ .number }}-link.{{ .root.Release.Namespace }}.svc.cluster.local:7443
{{- else if eq (len $addresses) 1 -}}
{{ first $addresses }}
{{- else if eq (len $addresses) (int .root.Values.replicas) -}}
{{ index $addresses .number }}
{{- else -}}
{{- fail (printf "link.addresses: give one for all routers, or one for each of the %d" (int .root.Values.replicas)) -}}
{{- end -}}
{{- end -}}
