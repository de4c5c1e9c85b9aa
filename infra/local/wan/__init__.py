"""Links between regions, and between regions and central: TCP proxies that record what crosses and can be disturbed."""
